"""What was found of one sign in one source: the first hits, the last ones, and how many there were."""

from __future__ import annotations

from collections import deque

from narthex.doctor.evidence import Hit


class Tally:
    """Bounded: of very many hits those between the first and the last are only counted."""

    __slots__ = ("count", "first", "last", "most")

    def __init__(self, first: int, last: int) -> None:
        self.most = first
        self.first: list[Hit] = []
        self.last: deque[Hit] = deque(maxlen=last)
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether all first hits are there."""
        return len(self.first) >= self.most

    @property
    def line(self) -> int:
        """Where the last hit stood; 0 before there is one."""
        if self.last:
            return self.last[-1].entry.line
        return self.first[-1].entry.line if self.first else 0

    def add(self, hit: Hit) -> None:
        """One more, behind all others."""
        (self.last if self.full else self.first).append(hit)

    def hits(self) -> list[Hit]:
        """Those that were kept, in order."""
        return [*self.first, *self.last]
