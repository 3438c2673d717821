"""Whatever went before: a request meets what was forecast, and no more ticks than told miss nothing."""

from __future__ import annotations

from hypothesis import given, settings

from .story import Step, Story, steps


@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_a_request_meets_what_was_forecast(steps: list[Step]) -> None:
    story = Story()
    for step in steps:
        story.happen(step)


@settings(max_examples=100, deadline=None)
@given(steps=steps)
def test_woken_only_when_it_wants_to_be_it_does_everything_in_time(steps: list[Step]) -> None:
    lazy, eager = Story(), Story(dense=True)
    for step in [*steps, ("end", 0, 40.0), ("end", 0, 100.0)]:
        lazy.happen(step)
        eager.happen(step)
    assert lazy.log == eager.log
