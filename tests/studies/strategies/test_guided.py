"""The default strategy: chance times gain, one parameter down after a failure, and an end."""

from __future__ import annotations

from narthex.outcomes import Outcome
from narthex.studies.records import Goal, Proposal, Stop
from narthex.studies.space import Space
from narthex.studies.strategies.guided import expected_improvement, propose, rate, safest
from narthex.testing.study_builders import knobs, machine, question, record, space
from narthex.trials.trial import TrialRecord
from narthex.units import GIB

FREE = space(planned=False, contexts=(4096,))


def step(history: list[TrialRecord], within: Space = FREE, **asked: object) -> Proposal:
    found = propose(question(**asked), within, history)
    assert isinstance(found, Proposal)
    return found


def test_it_begins_with_everything_on_the_card() -> None:
    assert step([]).knobs.gpu_layers == 33


def test_with_a_plan_it_begins_with_the_fastest_that_fits() -> None:
    tight = machine(gpu_free_bytes=7 * GIB)
    first = step([], space(tight, contexts=(4096,))).knobs
    assert tight.need_bytes(first) <= tight.gpu_free_bytes
    assert tight.need_bytes(first.with_(gpu_layers=(first.gpu_layers or 0) + 2)) > tight.gpu_free_bytes


def test_after_a_failure_one_parameter_goes_down() -> None:
    failed = record(knobs(33, ubatch=512))
    change = step([failed]).knobs.difference(failed.trial.knobs)
    assert set(change) == {"gpu_layers"}


def test_after_a_failure_the_context_goes_first_where_it_may() -> None:
    failed = record(knobs(33, num_ctx=16384))
    within = space(planned=False)
    assert set(step([failed], within).knobs.difference(failed.trial.knobs)) == {"num_ctx"}


def test_two_failures_in_a_row_still_lower_one_parameter_each() -> None:
    first = record(knobs(33, ubatch=512))
    second = record(step([first]).knobs)
    third = step([first, second]).knobs
    assert set(third.difference(second.trial.knobs)) == {"gpu_layers"}


def test_between_what_worked_and_what_failed_it_looks_in_the_middle() -> None:
    history = [record(knobs(33, ubatch=512)), record(knobs(20, ubatch=512), 15.0)]
    layers = step(history).knobs.gpu_layers
    assert layers is not None
    assert 22 <= layers <= 31


def test_it_stops_when_nothing_can_be_better() -> None:
    done = propose(question(), space(planned=False, contexts=(4096,), ubatches=(512,), kv_types=("f16",)),
                   [record(knobs(33), 4.0)])  # fmt: skip
    assert isinstance(done, Stop)
    assert "2%" in done.why


def test_it_stops_where_no_setting_can_help() -> None:
    damaged = record(knobs(33), outcome=Outcome.CORRUPT_FILE, reason="bad magic")
    assert isinstance(propose(question(), FREE, [damaged]), Stop)


def test_longest_looks_for_context_once_the_speed_is_known() -> None:
    within = space(planned=False)
    found = step([record(knobs(33), 4.0)], within, goal=Goal.LONGEST, min_decode_tps=20.0)
    assert found.knobs.num_ctx > 4096


def test_now_and_then_a_random_setting_is_checked() -> None:
    wide = space(planned=False, contexts=(4096,), ubatches=(64, 128, 256, 512, 1024))
    history = [record(knobs(n, ubatch=512), 40.0 - n) for n in range(10, 17)]
    again = step(history, wide, seed=1)
    assert "random" in again.why
    assert again == step(history, wide, seed=1)


def test_the_safest_setting_is_one_that_fits() -> None:
    found = safest(question(), FREE, [record(knobs(33)), record(knobs(30), 5.0)])
    assert found is not None
    assert (found.knobs.gpu_layers or 0) <= 30


def test_hopeless_settings_are_left_out() -> None:
    rated = rate(question(), FREE, [record(knobs(20, ubatch=128, kv_type="q8_0"))])
    assert all((row.candidate.knobs.gpu_layers or 0) < 20 for row in rated)


def test_improvement_is_never_negative_and_grows_with_doubt() -> None:
    assert expected_improvement(-1.0, 0.0) == 0.0
    assert expected_improvement(0.5, 0.0) == 0.5
    assert 0 < expected_improvement(-0.1, 0.1) < expected_improvement(-0.1, 0.3)
