"""The chance to fit: from the plan, and from what has been tried."""

from __future__ import annotations

import msgspec
import pytest

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.feasibility import Feasibility, is_short_of_memory, needs_as_much
from narthex.studies.space import Candidate, Space
from narthex.testing.study_builders import knobs, record, space
from narthex.trials.trial import TrialRecord
from narthex.units import MIB

GUESSED = space(planned=False)


def chance(setting: KnobValues, history: list[TrialRecord], within: Space = GUESSED) -> float:
    found = within.find(setting)
    assert found is not None
    return Feasibility(within, history, lambda candidate: 1 + 20 * candidate.cpu_share).chance(found)


def planned(margin_mib: int, setting: KnobValues) -> Candidate:
    need = 8000 * MIB
    return Candidate(knobs=setting, cpu_share=0.0, need_bytes=need, limit_bytes=need + margin_mib * MIB)


def test_what_needs_more_of_everything_than_a_failure_fails() -> None:
    assert chance(knobs(33), [record(knobs(30))]) == 0.0


def test_what_needs_less_of_everything_than_a_success_fits() -> None:
    assert chance(knobs(20, ubatch=128), [record(knobs(30, ubatch=512), 4.0)]) == 1.0


def test_without_a_plan_the_edge_lies_between_what_worked_and_what_failed() -> None:
    history = [record(knobs(33)), record(knobs(20), 9.0)]
    chances = [chance(knobs(n), history) for n in (21, 25, 29, 32)]
    assert chances == sorted(chances, reverse=True)
    assert 0.0 < chances[-1] < chances[0] < 1.0


def test_each_failure_of_a_smaller_variant_makes_the_next_less_likely() -> None:
    history = [record(knobs(33, ubatch=512))]
    first = chance(knobs(33, ubatch=128, kv_type="q8_0"), history)
    second = chance(knobs(33, ubatch=128, kv_type="q8_0"), [*history, record(knobs(33, ubatch=128))])
    assert second < first


def test_a_failed_compute_buffer_says_that_the_weights_fitted() -> None:
    compute = record(knobs(33), reason="graph_reserve: failed to allocate compute buffers")
    weights = record(knobs(33), reason="llama_model_load: error loading model: unable to allocate")
    assert chance(knobs(32), [compute]) > chance(knobs(32), [weights])


def test_what_the_engine_itself_placed_is_believed_to_fit() -> None:
    from narthex.engines._base import LoadReport

    engine = record(KnobValues(), 6.0)
    report = LoadReport(offloaded_layers=29, total_layers=33)
    engine = msgspec.structs.replace(
        engine, observation=msgspec.structs.replace(engine.observation, report=report)
    )
    failed = record(knobs(33))
    assert chance(knobs(29), [engine, failed]) > 0.85
    assert chance(knobs(29), [engine, failed]) > chance(knobs(29), [failed])


def test_a_refused_combination_is_not_tried_in_another_size() -> None:
    refused = record(
        knobs(33, kv_type="q8_0"), outcome=Outcome.UNSUPPORTED_SETTING, reason="V cache needs flash_attn"
    )
    assert chance(knobs(20, kv_type="q8_0"), [refused]) < 0.12
    assert chance(knobs(20), [refused]) > 0.5


@pytest.mark.parametrize(("margin", "low", "high"), [(400, 0.99, 1.0), (0, 0.4, 0.6), (-400, 0.0, 0.01)])
def test_a_plan_is_believed_within_its_error(margin: int, low: float, high: float) -> None:
    one = planned(margin, knobs(33))
    within = msgspec.structs.replace(GUESSED, candidates=(one,))
    assert low <= Feasibility(within, [], lambda candidate: 1.0).chance(one) <= high


def test_a_failure_inside_the_plan_lowers_what_the_plan_promises() -> None:
    near, sure = planned(100, knobs(33)), planned(100, knobs(33, ubatch=128))
    within = msgspec.structs.replace(GUESSED, candidates=(near, sure))
    before = Feasibility(within, [], lambda candidate: 1.0).chance(sure)
    after = Feasibility(within, [record(near.knobs)], lambda candidate: 1.0).chance(sure)
    assert after < before


def test_more_of_one_and_less_of_another_cannot_be_ordered() -> None:
    assert not needs_as_much(knobs(33, ubatch=128), knobs(32, ubatch=512))
    assert not needs_as_much(knobs(32, ubatch=512), knobs(33, ubatch=128))


DISGUISED = (Outcome.RUNNER_DIED, Outcome.LOAD_TIMEOUT, Outcome.SERVER_DOWN)


@pytest.mark.parametrize("outcome", DISGUISED)
def test_the_first_runner_that_died_may_have_been_short_of_memory(outcome: Outcome) -> None:
    died = record(knobs(33), outcome=outcome, reason="gone")
    assert is_short_of_memory(died, [died])
    assert chance(knobs(33, ubatch=512), [died]) == 0.0


@pytest.mark.parametrize("outcome", DISGUISED)
def test_a_runner_that_dies_with_less_as_well_was_not(outcome: Outcome) -> None:
    history = [record(knobs(n), outcome=outcome, reason="gone") for n in (33, 28)]
    assert not is_short_of_memory(history[1], history)


def test_a_runner_that_dies_above_what_worked_was() -> None:
    died = [record(knobs(n), outcome=Outcome.RUNNER_DIED, reason="gone") for n in (33, 30)]
    history = [died[0], record(knobs(28), 5.0), died[1]]
    assert is_short_of_memory(died[1], history)


@pytest.mark.parametrize("outcome", [Outcome.QUEUE_FULL, Outcome.CLIENT_GONE, Outcome.PROMPT_TRUNCATED])
def test_what_says_nothing_about_memory_is_not_backed_off(outcome: Outcome) -> None:
    failed = record(knobs(33), outcome=outcome, reason="gone")
    assert not is_short_of_memory(failed, [failed])
