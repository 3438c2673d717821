"""The winner against the best baseline, by all of their trials."""

from __future__ import annotations

import pytest

from narthex.studies.conclusion import judge_against, limits_of
from narthex.studies.records import Baseline, Goal
from narthex.testing.study_builders import knobs, machine, question, record, space
from narthex.units import GIB

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


# ---- what limits the winner


ROOMY = space(machine(gpu_free_bytes=24 * GIB))


def test_gpu_memory_limits_where_no_more_layers_fit() -> None:
    small = space()
    most = max(row.knobs.gpu_layers or 0 for row in small.candidates if row.knobs.num_ctx == 16384)
    chosen = record(knobs(most, num_ctx=16384, ubatch=512), 4.0)
    assert limits_of(question(), small, chosen, [chosen]) == (
        f"GPU memory: {most} of 33 layers are on the card."
    )


def test_gpu_memory_is_named_with_the_load_that_failed() -> None:
    chosen, failed = record(knobs(20), 4.0), record(knobs(21))
    words = limits_of(question(), ROOMY, chosen, [chosen, failed])
    assert words.startswith("GPU memory: 20 of 33 layers are on the card (")
    assert "out of memory" in words


def test_where_more_layers_ran_and_were_no_faster_it_is_not_memory() -> None:
    chosen, more = record(knobs(5), 4.0), record(knobs(33), 4.1)
    assert limits_of(question(), ROOMY, chosen, [more, chosen]) == (
        "Speed, and not GPU memory: 5 of 33 layers are on the card, "
        "and with more of them a turn was no faster."
    )


def test_where_more_layers_have_room_it_is_not_memory() -> None:
    chosen = record(knobs(5), 4.0)
    words = limits_of(question(), ROOMY, chosen, [chosen])
    assert words.endswith("5 of 33 layers are on the card, and more of them fit by the plan.")


def test_what_the_user_fixed_is_what_limits() -> None:
    chosen = record(knobs(5), 4.0)
    words = limits_of(question(pins={"gpu_layers": 5}), ROOMY, chosen, [chosen])
    assert words == "What you fixed (gpu_layers): 5 of 33 layers are on the card."
