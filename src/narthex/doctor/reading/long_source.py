"""A long source: searched in pieces; only few lines of each shape are read."""

from __future__ import annotations

from narthex.doctor.evidence import Entry, Hit
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.lines import LONGEST, entry_of
from narthex.doctor.reading.neighbours import Kept, Neighbours
from narthex.doctor.reading.piece import Piece
from narthex.doctor.reading.shapes import Shapes
from narthex.doctor.reading.tally import Place, Tally
from narthex.doctor.reading.words import Words

_ENDLESS = 1 << 20  # a line that is still not at its end is searched in pieces
_OVERLAP = 1 << 10  # so that a word on the border of two pieces is found
_SAMPLE = 64 << 10


class LongSource:
    """What is known of it so far. ``new_hits`` counts how often a sign was found."""

    def __init__(self, kind: str, name: str, words: Words) -> None:
        self.kind, self.name = kind, name
        self.size = 0
        self.new_hits = 0
        self.tallies: dict[int, Tally] = {}  # by the signs' numbers
        self._words = words
        self._shapes = Shapes(words, kind)
        self._clock = Clock()
        self._rest = b""
        self._before = 0  # whole lines that were read
        self._neighbours = Neighbours()

    @property
    def lines(self) -> int:
        """How many lines there are, also one without its end."""
        return self._before + bool(self._rest)

    @property
    def kept(self) -> Kept:
        """The lines around the hits."""
        return Kept(self._neighbours.spans, self.read)

    def feed(self, data: bytes) -> None:
        """The next bytes; they may end within a line."""
        if self.size < _SAMPLE:
            self._clock.learn(data[:_SAMPLE].decode("utf-8", "replace"))
        self.size += len(data)
        cut = data.rfind(b"\n") + 1
        if cut:
            self._search(self._rest + data[:cut] if self._rest else data[:cut])
            self._rest = data[cut:]
        else:
            self._rest += data
        if len(self._rest) > _ENDLESS:
            self._search(self._rest)
            self._rest = self._rest[-_OVERLAP:]

    def finish(self) -> None:
        """Nothing more comes: search a last line that has no end."""
        if self._rest:
            self._search(self._rest + b"\n")
            self._rest = b""

    def hits(self) -> dict[int, tuple[list[Hit], int]]:
        """Of each sign those that were kept, and how many there were."""
        read: dict[Place, Entry] = {}
        found: dict[int, tuple[list[Hit], int]] = {}
        for index, tally in self.tallies.items():
            pattern = self._words.signs[index].pattern
            rows: list[Hit] = []
            for place in tally.places():
                if (entry := read.get(place)) is None:
                    entry = read[place] = self.read(place.number, place.raw.decode("utf-8", "replace"))
                if (match := pattern.search(entry.plain)) is not None:
                    rows.append(Hit(entry=entry, match=match))
            found[index] = rows, tally.count
        return found

    def read(self, number: int, text: str) -> Entry:
        """A line of this source."""
        return entry_of(self.name, self.kind, number, text.rstrip("\r")[:LONGEST], self._clock)

    def _search(self, chunk: bytes) -> None:
        piece = Piece(chunk, self._before, self._shapes, self.read)
        self.new_hits += piece.tally(self.tallies)
        if chunk.endswith(b"\n"):
            self._neighbours.settle(chunk, sorted(piece.kept.items()))
            self._neighbours.prune(self._alive)
        self._before += chunk.count(b"\n")

    def _alive(self) -> set[int]:
        return {place.number for tally in self.tallies.values() for place in tally.places()}
