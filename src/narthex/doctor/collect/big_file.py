"""A file of any size that may grow or be cut short meanwhile, searched in pieces.

It is read and not mapped into memory: a rotation that cuts a mapped log ends whoever reads it (SIGBUS), and
a search through a mapping holds up every other thread until it is done.
"""

from __future__ import annotations

import os
from typing import BinaryIO

_PIECE = 1 << 20


class BigFile:
    """Places count from 0; beyond the end there is nothing. Raises OSError where it can't be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._number = file.fileno()
        self.size = os.fstat(self._number).st_size

    def part(self, start: int, end: int) -> bytes:
        """The bytes between two places."""
        pieces = []
        while start < end and (piece := os.pread(self._number, min(end - start, _PIECE), start)):
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def find(self, word: bytes, start: int, end: int) -> int:
        """Where the word first stands between two places; -1 where it does not."""
        while start < end:
            stop = min(end, start + _PIECE)
            if (found := self.part(start, stop).find(word)) >= 0:
                return start + found
            start = stop if stop == end else stop - len(word) + 1
        return -1

    def rfind(self, word: bytes, start: int, end: int) -> int:
        """Where it last stands between two places."""
        while start < end:
            first = max(start, end - _PIECE)
            if (found := self.part(first, end).rfind(word)) >= 0:
                return first + found
            end = first if first == start else first + len(word) - 1
        return -1

    def lines_before(self, end: int) -> int:
        """How many lines end before a place."""
        starts = range(0, end, _PIECE)
        return sum(self.part(start, min(end, start + _PIECE)).count(b"\n") for start in starts)
