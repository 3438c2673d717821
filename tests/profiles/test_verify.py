"""Whether a profile still holds."""

from __future__ import annotations

import pytest

from narthex.outcomes import Outcome
from narthex.profiles.verify import after_verify, is_only_slower, judge, quicker, trial_for
from narthex.testing.samples import engine, host, observation, profile
from narthex.trials.observation import Observation
from narthex.trials.trial import Turn


def test_the_same_speed_proves_it_again() -> None:
    answer = judge(profile(), observation(4.6))
    assert answer.holds
    assert answer.text.startswith("Proven again: a turn took 4.6 s; it was 4.5 s.")
    assert (answer.turn_s, answer.turn_s_then) == (4.6, 4.5)


def test_faster_is_no_failure() -> None:
    assert judge(profile(), observation(2.0)).holds


@pytest.mark.parametrize(("turn_s", "holds"), [(5.1, True), (5.2, False)])
def test_up_to_fifteen_per_cent_slower_is_allowed(turn_s: float, holds: bool) -> None:
    assert judge(profile(), observation(turn_s)).holds is holds


def test_a_slower_turn_says_by_how_much() -> None:
    assert "33% slower (at most 15% is allowed)" in judge(profile(), observation(6.0)).text


def test_a_failed_trial_is_not_proven_and_keeps_its_line() -> None:
    answer = judge(profile(), observation(outcome=Outcome.OUT_OF_MEMORY, reason="cudaMalloc failed"))
    assert not answer.holds
    assert answer.text == "Not proven: the trial ended with out_of_memory: cudaMalloc failed"


def test_a_trial_without_a_timed_turn_is_not_proven() -> None:
    assert not judge(profile(), observation(None)).holds


def test_what_was_never_soaked_holds_but_stays_unproven() -> None:
    answer = judge(profile(soak_s=0), observation(4.5))
    assert answer.holds
    assert "never soaked" in answer.text


def test_of_two_trials_the_quicker_one_counts() -> None:
    slow, quick, failed = observation(6.0), observation(4.6), observation(outcome=Outcome.TIMEOUT)
    assert quicker(slow, quick) is quick
    assert quicker(quick, slow) is quick
    assert quicker(slow, failed) is slow


@pytest.mark.parametrize(
    ("seen", "only_slower"),
    [
        (observation(6.0), True),
        (observation(4.6), False),
        (observation(None), False),
        (observation(outcome=Outcome.OUT_OF_MEMORY), False),
    ],
)
def test_only_a_slow_turn_is_worth_a_second_trial(seen: Observation, only_slower: bool) -> None:
    assert is_only_slower(profile(), seen) is only_slower


def test_the_trial_is_the_profiles_own_asked_of_todays_engine() -> None:
    trial = trial_for(profile(), engine("b12000"), host(key="host-2"))
    assert (trial.knobs, trial.turn, trial.purpose) == (profile().knobs, Turn(), "verify")
    assert (trial.engine_key, trial.host_key) == (engine("b12000").key, "host-2")


def test_a_profile_that_holds_belongs_to_todays_world() -> None:
    now = after_verify(
        profile(), judge(profile(), observation(4.5)), engine("b12000"), host(driver="590.10"), at=9.0
    )
    assert (now.engine_build, now.driver, now.verified, now.verified_at) == ("b12000", "590.10", True, 9.0)
    assert (now.proven, now.soak_s, now.turn_s) == (True, 150.0, 4.5)


def test_a_profile_that_fails_keeps_what_it_was_true_of() -> None:
    now = after_verify(profile(), judge(profile(), observation(9.0)), engine("b12000"), host(), at=9.0)
    assert (now.engine_build, now.verified) == ("b11434", False)
