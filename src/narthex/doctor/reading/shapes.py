"""Lines that differ only in their figures have the same signs: each shape of line is tried once.

A log of a million lines has some hundred shapes. A pattern to which single digits do not matter is tried on
the first line of a shape, and what comes out holds for all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from narthex.doctor.evidence import Entry
from narthex.doctor.reading.words import Words

_HASHES = re.compile(rb"[0-9a-f]{8,}(?:-[0-9a-f]{4})*")  # digests, ids of containers, cards and requests
_MOST = 20_000  # shapes that are remembered


class Shape:
    """What is known of all lines of a shape, and where they stand in the piece that is searched."""

    __slots__ = ("idle", "maybe", "places", "sure")

    def __init__(self, sure: tuple[int, ...], maybe: tuple[int, ...]) -> None:
        self.sure = sure  # signs that all these lines have
        self.maybe = maybe  # signs to which digits matter: each line is tried
        self.idle = not sure and not maybe
        self.places: list[int] = []


class Shapes:
    """All shapes seen so far in one source."""

    def __init__(self, words: Words, kind: str) -> None:
        self.words, self.kind = words, kind
        self.known: dict[bytes, Shape] = {}  # by the lines, lower case and masked
        self.idle: set[bytes] = set()  # lines without any word

    def set_aside(self, masked: bytes) -> None:
        """A line in which no word stands need not be searched again."""
        if len(self.idle) >= _MOST:
            self.idle.clear()
        self.idle.add(masked)

    def learn(self, masked: bytes, signs: list[int], read: Callable[[], Entry]) -> Shape:
        """The shape of a line that is not known. ``signs``: those whose words stand in it; ``read`` reads
        it."""
        if len(self.known) >= _MOST:
            self.known.clear()
        bare = _HASHES.sub(lambda found: b"0" * len(found[0]), masked)
        shape = self.known.get(bare)
        if shape is None:
            shape = self.known[bare] = self._tried(masked, signs, read)
        self.known[masked] = shape
        return shape

    def _tried(self, masked: bytes, signs: list[int], read: Callable[[], Entry]) -> Shape:
        sure: list[int] = []
        maybe: list[int] = []
        for index in signs:
            sign = self.words.signs[index]
            if not sign.may_shape(masked):
                continue
            entry = read()
            if not fits(sign.kinds, entry, self.kind):
                continue
            if sign.blind:
                if sign.pattern.search(entry.plain):
                    sure.append(index)
            elif sign.loose is None or sign.loose.search(entry.plain):
                maybe.append(index)
        return Shape(tuple(sure), tuple(maybe))


def fits(kinds: frozenset[str], entry: Entry, kind: str) -> bool:
    """Whether a sign of some kinds is looked for in a line; ``kind``: its source's."""
    return not kinds or entry.kind in kinds or kind in kinds
