"""What the cache takes: the engine's rounding and its rows."""

from __future__ import annotations

import pytest

from narthex.knobs import KnobValues
from narthex.memory.kv_cache import cache_bytes, setup_for
from narthex.memory.weights import place
from narthex.models.inspection import Inspection
from narthex.units import MIB

from .conftest import Model


def on_gpu(inspection: Inspection, knobs: KnobValues, layers: int = 999) -> int:
    setup = setup_for(inspection, knobs)
    return cache_bytes(inspection, setup, place(inspection, layers))[0]


@pytest.fixture
def llama(shape: Model) -> Inspection:
    """32 layers, 32 heads over 8 KV heads of 128."""
    return shape("mistral3-24b")


@pytest.mark.parametrize(("kv_type", "element_bytes"), [("f16", 2.0), ("q8_0", 34 / 32), ("q4_0", 18 / 32)])
def test_rows_for_keys_and_values_of_every_layer(
    llama: Inspection, kv_type: str, element_bytes: float
) -> None:
    knobs = KnobValues(num_ctx=8192, kv_type=kv_type)
    assert on_gpu(llama, knobs) == 40 * 2 * 8 * 128 * 8192 * element_bytes


def test_a_context_is_rounded_up_to_256_cells(llama: Inspection) -> None:
    assert on_gpu(llama, KnobValues(num_ctx=8000)) == on_gpu(llama, KnobValues(num_ctx=8192))
    assert on_gpu(llama, KnobValues(num_ctx=1)) == on_gpu(llama, KnobValues(num_ctx=256))


def test_each_slot_has_its_own_context(llama: Inspection) -> None:
    alone, four = KnobValues(num_ctx=4096), KnobValues(num_ctx=4096, parallel=4)
    assert on_gpu(llama, four) == 4 * on_gpu(llama, alone)


def test_a_layer_keeps_its_cache_where_its_weights_are(llama: Inspection) -> None:
    knobs = KnobValues(num_ctx=4096)
    setup = setup_for(llama, knobs)
    everything = on_gpu(llama, knobs)
    # 11 of 41: the output layer, which keeps nothing, and ten repeating ones
    gpu, host = cache_bytes(llama, setup, place(llama, 11))
    assert gpu == everything * 10 // 40
    assert gpu + host == everything


def test_a_window_is_kept_with_one_micro_batch_and_no_more(shape: Model) -> None:
    gemma = shape("gemma2-9b")  # 21 of 42 layers slide over 4096 tokens; 8 KV heads of 256
    row = 2 * 8 * 256 * 2
    knobs = KnobValues(num_ctx=32768, ubatch=512)
    assert on_gpu(gemma, knobs) == 21 * row * 32768 + 21 * row * (4096 + 512)
    assert on_gpu(gemma, knobs.with_(num_ctx=2048)) == 42 * row * 2048


def test_recurrent_state_grows_with_slots_and_not_with_context(shape: Model) -> None:
    mamba = shape("mamba2-2.7b")
    short, long = KnobValues(num_ctx=256), KnobValues(num_ctx=65536)
    assert on_gpu(mamba, short) == on_gpu(mamba, long) > 0
    assert on_gpu(mamba, short.with_(parallel=3)) == 3 * on_gpu(mamba, short)


def test_a_latent_row_is_kept_once(shape: Model) -> None:
    deepseek = shape("deepseek-v2-lite")  # 27 layers, rank 512 and 64 positions
    assert on_gpu(deepseek, KnobValues(num_ctx=4096)) == 27 * (512 + 64) * 4096 * 2


def test_without_flash_attention_values_take_the_widest_layers_room(shape: Model) -> None:
    gemma = shape("gemma4-e4b")  # layers of two widths
    knobs = KnobValues(num_ctx=4096)
    placement = place(gemma, 999)
    narrow = cache_bytes(gemma, setup_for(gemma, knobs, flash="on"), placement)[0]
    assert cache_bytes(gemma, setup_for(gemma, knobs, flash="off"), placement)[0] > narrow
    # the engine that only finds out later that it can't have flash attention keeps the cache it made
    assert cache_bytes(gemma, setup_for(gemma, knobs, flash="dropped"), placement)[0] == narrow


def test_micro_batch_is_cut_to_the_batch_and_the_batch_to_the_context(llama: Inspection) -> None:
    setup = setup_for(llama, KnobValues(num_ctx=8192, batch=256, ubatch=512))
    assert setup.tokens == 256
    setup = setup_for(llama, KnobValues(num_ctx=100, batch=2048, ubatch=512))
    assert setup.tokens == 100
    assert setup.cells * 40 * 2 * 8 * 128 * 2 == 40 * MIB


def test_a_server_that_limits_its_outputs_has_one_a_slot(llama: Inspection) -> None:
    knobs = KnobValues(num_ctx=4096, ubatch=512, parallel=2)
    assert setup_for(llama, knobs, every_output=False).outputs == 2
    assert setup_for(llama, knobs).outputs == 512
