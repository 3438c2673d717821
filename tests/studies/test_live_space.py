"""The space of a live study: real header, planner's figures, nothing beyond memory, cores or training."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.engines._base import Limits
from narthex.errors import UsageError
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.studies.live_space import Machine, contexts, cpu_share, live_space
from narthex.studies.strategies.guided import propose
from narthex.testing.shapes import write_shape
from narthex.testing.study_builders import knobs, question
from narthex.trials.trial import Turn
from narthex.units import GIB, MIB

HOST = Device(name="host", kind="host", free_bytes=32 * GIB, total_bytes=64 * GIB)


@pytest.fixture(scope="module")
def inspection(gemma: Path) -> Inspection:
    return inspect_file(gemma)


def card(free_bytes: int, **values: object) -> Machine:
    gpu = Device(name="CUDA0", kind="gpu", free_bytes=free_bytes, total_bytes=free_bytes)
    return Machine(devices=(gpu, HOST), cores=8, **values)  # type: ignore[arg-type]


def test_every_setting_fits_with_the_reserve_kept(inspection: Inspection) -> None:
    machine = card(1085 * MIB)
    space = live_space(inspection, machine, question())
    assert space.candidates
    for candidate in space.candidates[:: max(1, len(space.candidates) // 12)]:
        plan = plan_memory(inspection, candidate.knobs, machine.devices)
        assert plan.fits, candidate.knobs.describe()


def test_the_margin_is_the_plans_own(inspection: Inspection) -> None:
    for machine in (card(1085 * MIB), card(3 * GIB)):
        check_margins(inspection, machine)


def check_margins(inspection: Inspection, machine: Machine) -> None:
    space = live_space(inspection, machine, question())
    for candidate in space.candidates[:: max(1, len(space.candidates) // 6)]:
        plan = plan_memory(inspection, candidate.knobs, machine.devices)
        assert plan.margin_bytes is not None
        assert candidate.margin_bytes is not None
        assert candidate.margin_bytes - plan.reserve_bytes == pytest.approx(plan.margin_bytes, abs=64 * MIB)


def test_a_small_card_gets_fewer_layers_and_a_large_one_all(inspection: Inspection) -> None:
    most = [
        max(live_space(inspection, card(size), question()).values("gpu_layers"))
        for size in (1085 * MIB, 8 * GIB)
    ]
    assert most[0] < most[1] == inspection.layers + 1


def test_no_context_is_beyond_the_training_or_below_what_was_asked(inspection: Inspection) -> None:
    ladder = contexts(inspection, question(min_ctx=5000))
    assert ladder[0] == 5000
    assert ladder[-1] == inspection.context_train
    space = live_space(inspection, card(8 * GIB), question(min_ctx=5000))
    assert min(space.values("num_ctx")) == 5000


def test_a_demo_keeps_its_contexts_short(inspection: Inspection) -> None:
    short = Turn(depth=256, prompt_tokens=64, generate=32)
    assert contexts(inspection, question(min_ctx=None, demo=True, turn=short)) == [1024, 2048]


def test_threads_are_never_more_than_the_cores(inspection: Inspection) -> None:
    for machine in (card(8 * GIB), Machine(devices=(HOST,), cores=8)):
        space = live_space(inspection, machine, question())
        assert max(space.values("threads")) <= 8


def test_without_a_gpu_no_layer_is_placed(inspection: Inspection) -> None:
    space = live_space(inspection, Machine(devices=(HOST,), cores=8), question())
    assert not space.has_gpu
    assert {candidate.cpu_share for candidate in space.candidates} == {1.0}


def test_kv_types_are_those_allowed(inspection: Inspection) -> None:
    space = live_space(inspection, card(8 * GIB), question(allow_kv=("f16",)))
    assert space.values("kv_type") == ["f16"]


def test_a_fixed_knob_stays_fixed(inspection: Inspection) -> None:
    space = live_space(inspection, card(8 * GIB), question(pins={"ubatch": 256}))
    assert space.values("ubatch") == [256]


def test_any_value_may_be_fixed(inspection: Inspection) -> None:
    pins = {"ubatch": 300, "num_ctx": 5000, "gpu_layers": 7, "threads": 3}
    space = live_space(inspection, card(8 * GIB), question(pins=pins))
    assert {name: space.values(name) for name in pins} == {name: [value] for name, value in pins.items()}


def test_auto_layers_cannot_be_fixed(inspection: Inspection) -> None:
    with pytest.raises(UsageError, match="auto"):
        live_space(inspection, card(8 * GIB), question(pins={"gpu_layers": None}))


def test_where_nothing_fits_by_the_plan_it_may_still_be_tried(inspection: Inspection) -> None:
    space = live_space(inspection, card(64 * MIB), question())
    assert space.values("gpu_layers") == [0, 4, 9, 14, 19]
    assert all(candidate.need_bytes is None for candidate in space.candidates)


def test_slots_multiply_the_cache(inspection: Inspection) -> None:
    one, four = (
        live_space(
            inspection, card(1085 * MIB), question(parallel=slots, pins={"gpu_layers": 9, "ubatch": 128})
        ).values("num_ctx")
        for slots in (1, 4)
    )
    assert max(four) < max(one)


def test_fewer_layers_on_the_card_read_more_from_main_memory(inspection: Inspection) -> None:
    shares = [cpu_share(inspection, knobs(n), question()) for n in (19, 10, 1, 0)]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_step_is_found_quickly_enough_to_be_asked_after_each_load(inspection: Inspection) -> None:
    space = live_space(inspection, card(1085 * MIB), question())
    assert len(space.candidates) < 10_000
    assert propose(question(), space, [])


def test_fixed_layers_stay_fixed_where_the_plan_says_that_they_do_not_fit(inspection: Inspection) -> None:
    space = live_space(inspection, card(900 * MIB), question(pins={"gpu_layers": 19, "ubatch": 2048}))
    assert space.values("gpu_layers") == [19]


def test_a_micro_batch_is_never_above_a_fixed_batch(inspection: Inspection) -> None:
    space = live_space(inspection, card(8 * GIB), question(pins={"batch": 256}))
    assert space.values("ubatch") == [128, 256]


def test_a_deep_turn_asks_for_a_context_that_holds_it(inspection: Inspection) -> None:
    deep = question(min_ctx=None, turn=Turn(depth=8000))
    assert contexts(inspection, deep)[0] == 8960


SERVER = Limits(fixed={"kv_type": "q8_0", "flash_attn": "on", "parallel": 1, "cpu_moe": 0}, one_batch=True)


def test_a_server_that_fixes_knobs_leaves_layers_context_and_one_batch(inspection: Inspection) -> None:
    space = live_space(inspection, card(4 * GIB, limits=SERVER), question())
    assert {c.knobs.kv_type for c in space.candidates} == {"q8_0"}
    assert {c.knobs.flash_attn for c in space.candidates} == {"on"}
    assert all(c.knobs.batch == c.knobs.ubatch for c in space.candidates)
    assert space.values("batch") == [128, 256, 512, 1024, 2048]
    assert space.has_gpu


def test_a_server_that_fixes_knobs_does_so_without_a_gpu_and_without_a_plan(inspection: Inspection) -> None:
    for machine in (Machine(devices=(HOST,), cores=8, limits=SERVER), card(64 * MIB, limits=SERVER)):
        space = live_space(inspection, machine, question())
        assert {c.knobs.kv_type for c in space.candidates} == {"q8_0"}
        assert all(c.knobs.batch == c.knobs.ubatch for c in space.candidates)


def test_experts_stay_where_the_server_puts_them(tmp_path: Path) -> None:
    mixture = inspect_file(write_shape("gpt-oss", tmp_path / "mixture.gguf"))
    whole = plan_memory(mixture, knobs(99), (HOST,)).devices[0].model_bytes
    free, fixed = card(whole * 3 // 4 + GIB), card(whole * 3 // 4 + GIB, limits=SERVER)
    assert len(live_space(mixture, free, question()).values("cpu_moe")) > 1
    assert live_space(mixture, fixed, question()).values("cpu_moe") == [0]


def test_one_fixed_batch_is_both(inspection: Inspection) -> None:
    space = live_space(inspection, card(8 * GIB, limits=SERVER), question(pins={"batch": 300}))
    assert {(c.knobs.batch, c.knobs.ubatch) for c in space.candidates} == {(300, 300)}


def test_what_a_tenant_needs_stays_free_on_top_of_the_reserve(inspection: Inspection) -> None:
    needs = [
        max(c.need_bytes or 0 for c in live_space(inspection, machine, question()).candidates)
        for machine in (card(1285 * MIB), card(1285 * MIB, beside_bytes=100 * MIB))
    ]
    assert needs[0] - needs[1] == pytest.approx(100 * MIB, abs=32 * MIB)
    assert card(8 * GIB, reserve_bytes=256 * MIB, beside_bytes=GIB).reserve == GIB + 256 * MIB


def test_a_tenant_is_not_counted_twice_where_its_growth_was_seen_before() -> None:
    once = card(8 * GIB, beside_bytes=GIB)
    assert card(8 * GIB, beside_bytes=GIB, tenants_bytes=GIB).reserve == once.reserve
