"""What was found of one sign in one source: the first hits, the last ones, and how many there were."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Place(NamedTuple):
    """A line with a sign, not yet read."""

    number: int
    raw: bytes


class Tally:
    """Bounded: of very many hits those between the first and the last are only counted."""

    __slots__ = ("count", "first", "last", "most")

    def __init__(self, first: int, last: int) -> None:
        self.most = first
        self.first: list[Place] = []
        self.last: deque[Place] = deque(maxlen=last)
        self.count = 0

    @property
    def line(self) -> int:
        """Where the last hit stood; 0 before there is one."""
        if self.last:
            return self.last[-1].number
        return self.first[-1].number if self.first else 0

    def add(self, place: Place) -> None:
        """One more, behind all others."""
        (self.first if len(self.first) < self.most else self.last).append(place)

    def places(self) -> list[Place]:
        """Those that were kept, in order."""
        return [*self.first, *self.last]
