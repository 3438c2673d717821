"""Conclusions from observations: what can be used, what is faster, what is a tie."""

from __future__ import annotations

from narthex.outcomes import Outcome
from narthex.trials.observation import Observation, TurnTiming
from narthex.trials.verdict import Judgement, compare, judge


def observed(*turn_times: float, generated: int = 64) -> Observation:
    turns = tuple(
        TurnTiming(
            depth=0,
            prompt_tokens=64,
            generated=generated,
            ttft_s=0.1,
            prompt_tps=100.0,
            decode_tps=10.0,
            turn_s=seconds,
        )
        for seconds in turn_times
    )
    return Observation(outcome=Outcome.DONE, turns=turns)


def test_a_good_observation_is_usable() -> None:
    assert judge(observed(1.0, 1.01, 0.99)).judgement is Judgement.USABLE


def test_a_failure_keeps_its_proof() -> None:
    verdict = judge(Observation(outcome=Outcome.OUT_OF_MEMORY, reason="cudaMalloc failed: out of memory"))
    assert verdict.judgement is Judgement.FAILED
    assert verdict.reasons == ("cudaMalloc failed: out of memory",)


def test_without_a_timed_turn_nothing_is_proven() -> None:
    assert judge(Observation(outcome=Outcome.DONE)).judgement is Judgement.NOT_PROVEN


def test_one_token_tells_no_speed() -> None:
    assert judge(observed(1.0, generated=1)).judgement is Judgement.NOT_PROVEN


def test_repeats_that_disagree_wildly_prove_nothing() -> None:
    assert judge(observed(1.0, 2.0, 1.1)).judgement is Judgement.NOT_PROVEN


def test_half_the_time_is_faster() -> None:
    verdict = compare(
        [observed(1.0, 1.02), observed(1.01, 0.99)], [observed(2.0, 2.02), observed(2.01, 1.99)]
    )
    assert verdict.judgement is Judgement.FASTER
    assert verdict.ratio is not None
    assert 0.49 < verdict.ratio < 0.51


def test_twice_the_time_is_slower() -> None:
    assert compare([observed(2.0, 2.0, 2.0)], [observed(1.0, 1.0, 1.0)]).judgement is Judgement.SLOWER


def test_within_two_percent_is_a_tie() -> None:
    assert compare([observed(1.0, 1.0, 1.0)], [observed(1.019, 1.019, 1.019)]).judgement is Judgement.TIE


def test_a_difference_that_noise_explains_is_a_tie() -> None:
    verdict = compare([observed(1.0, 1.2, 0.8, 1.1)], [observed(1.05, 1.3, 0.85, 1.2)])
    assert verdict.judgement is Judgement.TIE
    assert "chance" in verdict.text


def test_one_slow_outlier_does_not_hide_a_clear_difference() -> None:
    a = [observed(1.0, 1.01, 0.99), observed(1.0, 1.9, 1.01)]
    b = [observed(1.5, 1.51, 1.49), observed(1.5, 1.5, 1.51)]
    assert compare(a, b).judgement is Judgement.FASTER


def test_failed_observations_compare_as_not_proven() -> None:
    failed = Observation(outcome=Outcome.CRASHED, reason="signal 11")
    assert compare([failed], [observed(1.0)]).judgement is Judgement.NOT_PROVEN
