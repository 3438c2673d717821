"""One plan: what adds up, what fits, what is said where something is not known."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.memory.calibrate import Calibration, Correction
from narthex.memory.overhead import CUDA_RUNTIME
from narthex.memory.plan import Device, MemoryPlan, plan_memory
from narthex.models.inspection import Inspection
from narthex.units import GIB, MIB

from .conftest import Model

HOST = Device(name="host", kind="host", free_bytes=64 * GIB)
PLAIN = KnobValues(num_ctx=4096, gpu_layers=999, flash_attn="on")


def card(free: int | None) -> tuple[Device, ...]:
    return (Device(name="GPU0", kind="gpu", free_bytes=free), HOST)


def total(plan: MemoryPlan) -> int:
    return plan.devices[0].planned_bytes


@pytest.fixture
def llama(shape: Model) -> Inspection:
    """16 layers."""
    return shape("llama3.2-1b")


def test_a_device_needs_its_terms_and_its_overhead(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN, card(80 * GIB))
    for device in plan.devices:
        parts = device.model_bytes + device.context_bytes + device.compute_bytes
        assert device.planned_bytes == parts
        assert device.need_bytes == parts + device.overhead_bytes
    gpu = plan.devices[0]
    assert plan.margin_bytes == 80 * GIB - gpu.need_bytes - plan.reserve_bytes
    assert [device.kind for device in plan.devices] == ["gpu", "host"]
    assert plan.fits is True
    assert plan.known_architecture is True
    assert "H100" in plan.overhead_source


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ctx=st.integers(1, 40_000),
    more=st.integers(0, 40_000),
    layers=st.integers(0, 16),
    parallel=st.integers(1, 4),
)
def test_more_of_anything_never_takes_less(
    llama: Inspection, ctx: int, more: int, layers: int, parallel: int
) -> None:
    def kept(knobs: KnobValues) -> int:
        gpu = plan_memory(llama, knobs, card(None)).devices[0]
        return gpu.model_bytes + gpu.context_bytes

    small = PLAIN.with_(num_ctx=ctx, gpu_layers=layers, parallel=parallel)
    assert kept(small) <= kept(small.with_(num_ctx=ctx + more))
    assert kept(small) <= kept(small.with_(gpu_layers=layers + 1))
    assert kept(small) <= kept(small.with_(parallel=parallel + 1))


@pytest.mark.parametrize("pair", [(128, 256), (256, 512), (512, 1024), (1024, 2048)])
def test_a_larger_micro_batch_takes_more(llama: Inspection, pair: tuple[int, int]) -> None:
    small, large = (plan_memory(llama, PLAIN.with_(ubatch=n, batch=2048), card(None)) for n in pair)
    assert total(small) < total(large)


def test_layers_beyond_the_last_are_cut_off(llama: Inspection) -> None:
    assert plan_memory(llama, PLAIN, card(None)).knobs.gpu_layers == 17
    assert plan_memory(llama, PLAIN.with_(gpu_layers=17), card(None)) == plan_memory(llama, PLAIN, card(None))


def test_a_tiny_context_is_planned(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN.with_(num_ctx=1), card(80 * GIB))
    assert plan.devices[0].context_bytes == 16 * 2 * 8 * 64 * 2 * 256
    assert 0 < plan.devices[0].compute_bytes < 8 * MIB


def test_without_a_gpu_all_is_planned_on_the_host(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN, (HOST,))
    assert [device.kind for device in plan.devices] == ["host"]
    assert plan.knobs.gpu_layers == 0
    assert any("no GPU" in gap for gap in plan.gaps)
    assert plan.fits is True


def test_what_is_not_known_is_not_decided(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN, card(None))
    assert plan.devices[0].fits is None
    assert plan.margin_bytes is None


def test_the_reserve_counts_growth_and_other_tenants(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN, card(80 * GIB), growth_bytes=30 * MIB, tenants_bytes=GIB)
    assert plan.reserve_bytes == (128 + 30 + 1024) * MIB
    assert plan_memory(llama, PLAIN, card(80 * GIB), reserve_bytes=0, growth_bytes=GIB).reserve_bytes == 0


def test_to_the_byte_it_fits_or_not(llama: Inspection) -> None:
    need = plan_memory(llama, PLAIN, card(80 * GIB), reserve_bytes=0).devices[0].need_bytes
    assert plan_memory(llama, PLAIN, card(need), reserve_bytes=0).fits is True
    plan = plan_memory(llama, PLAIN, card(need - 1), reserve_bytes=0)
    assert plan.fits is False
    assert plan.margin_bytes == -1


def test_a_quantised_cache_without_flash_attention_is_refused_as_the_engine_does(llama: Inspection) -> None:
    with pytest.raises(UsageError, match="q8_0"):
        plan_memory(llama, PLAIN.with_(kv_type="q8_0", flash_attn="off"), card(None))


def test_a_second_gpu_is_named_as_not_planned(llama: Inspection) -> None:
    devices = (*card(80 * GIB)[:1], Device(name="GPU1", kind="gpu", free_bytes=GIB), HOST)
    plan = plan_memory(llama, PLAIN, devices)
    assert any("several GPUs" in gap for gap in plan.gaps)
    assert [device.name for device in plan.devices] == ["GPU0", "host"]


def test_a_micro_batch_larger_than_the_batch_is_cut_and_said_so(llama: Inspection) -> None:
    plan = plan_memory(llama, PLAIN.with_(batch=256, ubatch=512), card(None))
    assert total(plan) == total(plan_memory(llama, PLAIN.with_(batch=256, ubatch=256), card(None)))
    assert any("256" in gap for gap in plan.gaps)


def test_the_engines_own_choice_leaves_a_gib_free(known_model: Model) -> None:
    # recorded: 59 of 65 layers on a card with 20475 MiB
    model = known_model("deepseek-r1-32b")
    knobs = PLAIN.with_(num_ctx=8192, gpu_layers=None)
    plan = plan_memory(model, knobs, card(20475 * MIB))
    assert plan.knobs.gpu_layers == 59
    assert any("59 of 65" in gap for gap in plan.gaps)
    gpu = plan.devices[0]
    assert gpu.free_bytes is not None
    assert gpu.free_bytes - gpu.need_bytes >= GIB - CUDA_RUNTIME  # not taken yet when it chooses
    more = plan_memory(model, knobs.with_(gpu_layers=60), card(20475 * MIB)).devices[0]
    assert 20475 * MIB - more.need_bytes < GIB


def test_an_unknown_architecture_is_said_to_be_and_bounded(llama: Inspection) -> None:
    metadata = {
        key.replace("llama.", "gizmo."): "gizmo" if key == "general.architecture" else value
        for key, value in llama.metadata.items()
    }
    gizmo = msgspec.structs.replace(llama, architecture="gizmo", metadata=metadata)
    plan = plan_memory(gizmo, PLAIN, card(80 * GIB))
    truth = plan_memory(llama, PLAIN, card(80 * GIB)).devices
    assert plan.known_architecture is False
    assert any("gizmo" in gap for gap in plan.gaps)
    for bounds, real in zip(plan.bounds, truth, strict=True):
        assert bounds.low_bytes <= real.compute_bytes <= bounds.high_bytes


def test_between_the_bounds_it_may_fit(llama: Inspection) -> None:
    gizmo = msgspec.structs.replace(llama, architecture="gizmo")
    plan = plan_memory(gizmo, PLAIN, card(80 * GIB))
    gpu, bounds = plan.devices[0], plan.bounds[0]
    least = gpu.need_bytes - gpu.compute_bytes + bounds.low_bytes + plan.reserve_bytes
    assert plan_memory(gizmo, PLAIN, card(least)).fits is None
    assert plan_memory(gizmo, PLAIN, card(least - 1)).fits is False


def test_a_server_with_logits_for_its_slots_needs_less(llama: Inspection) -> None:
    every = plan_memory(llama, PLAIN, card(None))
    slots = plan_memory(llama, PLAIN, card(None), outputs="slots")
    assert total(every) - total(slots) > 100 * MIB


def test_what_loads_taught_corrects_the_plan(llama: Inspection) -> None:
    taught = Correction(kind="gpu", term="compute", ratio=1.0, offset_bytes=7 * MIB, loads=2, off_by_bytes=0)
    calibration = Calibration(engine_key="b1", corrections=(taught,), loads=2)
    plain, corrected = (
        plan_memory(llama, PLAIN, card(None), calibration=learned).devices for learned in (None, calibration)
    )
    assert corrected[0].compute_bytes - plain[0].compute_bytes == 7 * MIB
    assert corrected[1].compute_bytes == plain[1].compute_bytes


def test_experts_kept_behind_move_their_bytes_to_the_host(shape: Model) -> None:
    olmoe = shape("olmoe-7b")
    whole, spared = (plan_memory(olmoe, PLAIN.with_(cpu_moe=n), card(None)).devices for n in (0, 8))
    moved = whole[0].model_bytes - spared[0].model_bytes
    assert moved > GIB
    assert abs(spared[1].model_bytes - whole[1].model_bytes - moved) < MIB
