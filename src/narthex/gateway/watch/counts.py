"""Plain counts: what is touched for each request costs a dictionary's entry and no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

OTHER = "other"

_Value = TypeVar("_Value")
Rows = dict[tuple[str, ...], _Value]  # label values: what was counted under them


class Names:
    """Keeps a label's values few: names that come from outside would else grow the page without end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """The name itself, or «other» once there are too many."""
        if not name or name in self._known:
            return name
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


class Spread:
    """One histogram: how many values fell into each bucket, and their sum."""

    __slots__ = ("_ends", "counts", "total")

    def __init__(self, ends: Sequence[float]) -> None:
        self._ends = ends
        self.counts = [0] * (len(ends) + 1)  # the last one has no upper end
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._ends, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus' own shape: each bucket counts all values up to its end."""
        found: list[tuple[str, float]] = []
        running = 0
        for end, count in zip((*map(str, self._ends), "+Inf"), self.counts, strict=True):
            running += count
            found.append((end, float(running)))
        return found
