"""``Screen``: what a study tells the person who waits. ``views.progress.Progress`` is one."""

from __future__ import annotations

from typing import Protocol

from narthex.trials.trial import Watch


class Screen(Protocol):
    """Events of a study, as they happen."""

    watch: Watch

    def trial(self, number: int, knobs: str, why: str = "") -> None:
        """A trial begins."""

    def done(self, text: str) -> None:
        """The trial ended, in one line."""

    def best(self, text: str) -> None:
        """The best so far has changed."""

    def note(self, text: str) -> None:
        """A decision or a remark."""

    def eta(self, seconds: float | None) -> None:
        """Seconds that it still takes, as far as one can tell."""


class Silent:
    """A screen that shows nothing."""

    def __init__(self) -> None:
        self.watch: Watch = lambda stage, share: None

    def trial(self, number: int, knobs: str, why: str = "") -> None:
        """Nothing."""

    def done(self, text: str) -> None:
        """Nothing."""

    def best(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def eta(self, seconds: float | None) -> None:
        """Nothing."""
