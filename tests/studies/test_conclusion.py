"""The winner against the best baseline, by all of their trials."""

from __future__ import annotations

import pytest

from narthex.studies.conclusion import judge_against
from narthex.studies.records import Baseline, Goal
from narthex.testing.study_builders import knobs, question, record, space

MINE, THEIRS = knobs(20, num_ctx=8192), knobs(18)


@pytest.mark.parametrize(
    ("goal", "confirmed_s", "chosen"),
    [
        (Goal.FASTEST, 4.0, MINE),
        (Goal.FASTEST, 6.0, THEIRS),
        (Goal.BALANCED, 5.4, MINE),  # twice the context for 8 % more turn time
        (Goal.BALANCED, 6.0, THEIRS),
    ],
)
def test_what_was_confirmed_counts_and_not_the_first_try_alone(
    goal: Goal, confirmed_s: float, chosen: object
) -> None:
    """In the search it took 4 s against 5; interleaved, the median of all is what counts."""
    winner, rival = record(MINE, 4.0), record(THEIRS, 5.0)
    confirmed = [record(MINE, confirmed_s), record(THEIRS, 5.0), record(MINE, confirmed_s)]
    baseline = Baseline(name="engine", knobs=THEIRS, record=rival)
    asked = question(goal=goal, min_ctx=4096)
    answer = judge_against(asked, space(), winner, baseline, [winner, rival, *confirmed])
    assert answer.knobs == chosen
    if chosen == THEIRS:
        assert answer.verdict == "Nothing tried is better than the engine's own placement."
