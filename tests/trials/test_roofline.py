"""Bytes read for one token, and the share of the bandwidth's limit that a speed reaches."""

from __future__ import annotations

import pytest

from narthex.knobs import KnobValues
from narthex.models.inspection import AttentionKind, Inspection, LayerShape
from narthex.trials.bandwidth import cpu_bandwidth
from narthex.trials.roofline import Bandwidth, roofline_share, traffic

LAYERS = 4
LAYER_BYTES = 1000
EXPERT_BYTES = 800
OUTPUT_BYTES = 500
CACHE_A_TOKEN = 2 * (16 + 16) * 2  # 2 KV heads, 16 + 16 elements, f16


def model(*, experts: int = 0, used: int = 0, window: int | None = None, tied: bool = False) -> Inspection:
    layer = LayerShape(
        attention=AttentionKind.SLIDING if window else AttentionKind.FULL,
        heads=4,
        kv_heads=2,
        key_length=16,
        value_length=16,
        window=window,
        weight_bytes=LAYER_BYTES,
        expert_bytes=EXPERT_BYTES if experts else 0,
    )
    groups = {"embedding": OUTPUT_BYTES} if tied else {"embedding": 777, "output": OUTPUT_BYTES}
    return Inspection(
        path="m.gguf",
        files=("m.gguf",),
        projector=None,
        identity="m",
        architecture="llama",
        name="m",
        layers=LAYERS,
        parameters=1,
        file_bytes=1,
        context_train=4096,
        vocabulary=10,
        quantization="Q4_0",
        quantization_bytes={},
        experts=experts,
        experts_used=used,
        embedding_length=64,
        feed_forward_length=64,
        expert_feed_forward_length=0,
        heads=4,
        kv_heads=2,
        layer_shapes=(layer,) * LAYERS,
        group_bytes=groups,
        metadata={},
        tensors=(),
    )


ALL = KnobValues(gpu_layers=LAYERS + 1)


def test_everything_on_the_gpu_reads_weights_output_and_cache_once() -> None:
    read = traffic(model(), ALL, depth=10)
    assert read.gpu_bytes == LAYERS * (LAYER_BYTES + 10 * CACHE_A_TOKEN) + OUTPUT_BYTES
    assert read.cpu_bytes == 0


def test_a_tied_embedding_is_read_as_output() -> None:
    assert traffic(model(tied=True), ALL, depth=0) == traffic(model(), ALL, depth=0)


def test_the_output_layer_is_the_first_to_be_offloaded() -> None:
    read = traffic(model(), ALL.with_(gpu_layers=1), depth=0)
    assert (read.gpu_bytes, read.cpu_bytes) == (OUTPUT_BYTES, LAYERS * LAYER_BYTES)


def test_without_gpu_layers_the_cpu_reads_all() -> None:
    read = traffic(model(), ALL.with_(gpu_layers=0), depth=0)
    assert (read.gpu_bytes, read.cpu_bytes) == (0, LAYERS * LAYER_BYTES + OUTPUT_BYTES)


def test_only_chosen_experts_are_read() -> None:
    read = traffic(model(experts=8, used=2), ALL, depth=0)
    assert read.gpu_bytes == LAYERS * (LAYER_BYTES - EXPERT_BYTES + EXPERT_BYTES // 4) + OUTPUT_BYTES


def test_experts_kept_on_the_cpu_are_read_there() -> None:
    read = traffic(model(experts=8, used=2), ALL.with_(cpu_moe=3), depth=0)
    assert read.cpu_bytes == 3 * EXPERT_BYTES // 4


def test_a_sliding_window_stops_growing() -> None:
    assert traffic(model(window=8), ALL, depth=8) == traffic(model(window=8), ALL, depth=8000)


def test_a_quantised_cache_is_read_smaller() -> None:
    f16, q8 = (traffic(model(), ALL.with_(kv_type=kind), depth=32).gpu_bytes for kind in ("f16", "q8_0"))
    assert f16 - q8 == LAYERS * 32 * CACHE_A_TOKEN * (2 - 34 / 32) / 2


def test_the_roof_itself_is_one() -> None:
    read = traffic(model(), ALL, depth=0)
    assert roofline_share(model(), ALL, 2.0, Bandwidth(gpu=2.0 * read.gpu_bytes)) == pytest.approx(1.0)


def test_two_memories_add_their_times() -> None:
    knobs = ALL.with_(gpu_layers=3)
    read = traffic(model(), knobs, depth=0)
    bandwidth = Bandwidth(gpu=float(read.gpu_bytes), cpu=float(read.cpu_bytes))
    assert roofline_share(model(), knobs, 0.25, bandwidth) == pytest.approx(0.5)


def test_an_unknown_bandwidth_that_matters_gives_no_share() -> None:
    assert roofline_share(model(), ALL.with_(gpu_layers=3), 1.0, Bandwidth(gpu=1e9)) is None
    assert roofline_share(model(), ALL, 1.0, Bandwidth(gpu=1e9)) is not None


def test_main_memory_reads_faster_than_a_disk() -> None:
    measured = cpu_bandwidth(1)
    assert measured is not None
    assert measured > 500e6
