"""The largest contexts: what is listed fits, and 256 tokens more do not."""

from __future__ import annotations

import msgspec
import pytest

from narthex.knobs import KnobValues
from narthex.memory.frontier import frontier, largest_ctx, most_layers
from narthex.memory.plan import Device, plan_memory
from narthex.units import GIB, MIB

from .conftest import Model

KNOBS = KnobValues(num_ctx=4096, flash_attn="on")


def card(free: int | None) -> tuple[Device, ...]:
    return (Device(name="GPU0", kind="gpu", free_bytes=free), Device(name="host", kind="host"))


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("mistral3-24b", 16 * GIB),
        ("gemma2-9b", 9 * GIB),
        ("deepseek-v2-lite", 11 * GIB),
        ("jamba-mini", 40 * GIB),
    ],
)
def test_with_all_layers_a_row_is_the_largest_that_fits(shape: Model, name: str, free: int) -> None:
    model, devices = shape(name), card(free)
    rows = [row for row in frontier(model, KNOBS, devices) if row.gpu_layers == model.layers + 1]
    assert [row.kv_type for row in rows] == ["f16", "q8_0", "q4_0"]
    for row in rows:
        knobs = KNOBS.with_(gpu_layers=row.gpu_layers, kv_type=row.kv_type)
        assert row.num_ctx % 256 == 0
        if row.num_ctx:
            assert plan_memory(model, knobs.with_(num_ctx=row.num_ctx), devices).fits
        if row.limited_by == "memory":
            assert not plan_memory(model, knobs.with_(num_ctx=row.num_ctx + 256), devices).fits


def test_one_layer_count_alone_is_exact_with_layers_on_the_host_too(shape: Model) -> None:
    model, devices = shape("mistral3-24b"), card(12 * GIB)
    for layers in (5, 20, 27, 33):
        knobs = KNOBS.with_(gpu_layers=layers)
        ctx = largest_ctx(model, knobs, devices)
        assert ctx
        assert plan_memory(model, knobs.with_(num_ctx=ctx), devices).fits
        if ctx < model.context_train:
            assert not plan_memory(model, knobs.with_(num_ctx=ctx + 256), devices).fits


def test_a_row_for_each_layer_count_and_kv_type(shape: Model) -> None:
    model = shape("llama3.2-1b")
    rows = frontier(model, KNOBS, card(8 * GIB))
    assert len(rows) == 18 * 3
    assert {row.gpu_layers for row in rows} == set(range(18))
    by_type = [[row.num_ctx for row in rows if row.kv_type == kind] for kind in ("f16", "q8_0", "q4_0")]
    assert all(f16 <= q8 <= q4 for f16, q8, q4 in zip(*by_type, strict=True))


def test_rows_with_layers_on_the_host_fit_within_what_a_shortened_model_can_tell(shape: Model) -> None:
    model, devices = shape("mistral3-24b"), card(12 * GIB)
    for row in frontier(model, KNOBS, devices, kv_types=("f16",))[::4]:
        knobs = KNOBS.with_(gpu_layers=row.gpu_layers, num_ctx=row.num_ctx)
        if row.num_ctx:
            margin = plan_memory(model, knobs, devices).margin_bytes
            assert margin is not None
            assert margin > -145 * MIB


def test_the_trained_length_is_the_end(shape: Model) -> None:
    rows = frontier(shape("llama3.2-1b"), KNOBS, card(80 * GIB))
    assert {row.limited_by for row in rows} == {"training"}
    assert {row.num_ctx for row in rows} == {131072}


def test_nothing_fits_on_a_card_that_is_too_small(shape: Model) -> None:
    rows = frontier(shape("mistral3-24b"), KNOBS, card(GIB))
    assert rows[0].num_ctx == 0
    assert rows[0].limited_by == "nothing fits"


def test_a_card_of_unknown_size_has_no_frontier(shape: Model) -> None:
    assert frontier(shape("llama3.2-1b"), KNOBS, card(None)) == ()


def test_without_flash_attention_only_the_plain_cache_is_listed(shape: Model) -> None:
    rows = frontier(shape("llama3.2-1b"), KNOBS.with_(flash_attn="off"), card(8 * GIB))
    assert {row.kv_type for row in rows} == {"f16"}


def test_the_most_layers_for_a_context_fit_and_one_more_does_not(shape: Model) -> None:
    model, devices = shape("mistral3-24b"), card(12 * GIB)
    knobs = KNOBS.with_(num_ctx=16384)
    layers = most_layers(model, knobs, devices)
    assert layers is not None
    assert plan_memory(model, knobs.with_(gpu_layers=layers), devices).fits
    assert not plan_memory(model, knobs.with_(gpu_layers=layers + 1), devices).fits
    assert most_layers(model, knobs.with_(num_ctx=131072), card(GIB // 4)) is None


def test_slots_share_the_card(shape: Model) -> None:
    model, devices = shape("mistral3-24b"), card(20 * GIB)
    alone, four = (largest_ctx(model, KNOBS.with_(gpu_layers=999, parallel=n), devices) for n in (1, 4))
    assert 0 < four <= alone // 4


def test_heads_that_predict_ahead_are_not_run(shape: Model) -> None:
    model = shape("glm4.5-air")
    rows = frontier(model, KNOBS, card(80 * GIB), kv_types=("f16",))
    whole = rows[0]
    assert whole.gpu_layers == model.layers + 1
    knobs = KNOBS.with_(gpu_layers=whole.gpu_layers, num_ctx=whole.num_ctx)
    assert plan_memory(model, knobs, card(80 * GIB)).fits


def test_an_unknown_architecture_is_listed_at_its_upper_bound(shape: Model) -> None:
    gizmo = msgspec.structs.replace(shape("llama3.2-1b"), architecture="gizmo")
    rows = frontier(gizmo, KNOBS, card(3 * GIB), gpu_layers=17, kv_types=("f16",))
    known = frontier(shape("llama3.2-1b"), KNOBS, card(3 * GIB), gpu_layers=17, kv_types=("f16",))
    assert 0 < rows[0].num_ctx < known[0].num_ctx
