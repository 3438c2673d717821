"""A long source: searched in pieces; only lines with a sign's word are read."""

from __future__ import annotations

from narthex.doctor.evidence import Entry, Hit
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.lines import LONGEST, entry_of
from narthex.doctor.reading.neighbours import Kept, Neighbours
from narthex.doctor.reading.tally import Tally
from narthex.doctor.reading.words import Words
from narthex.doctor.sign import Sign

_STEP = 4096  # line ends are counted in steps of so many bytes
_ENDLESS = 1 << 20  # a line that is still not at its end is searched in pieces
_OVERLAP = 1 << 10  # so that a word on the border of two pieces is found
_SAMPLE = 64 << 10
_TRIED = 40  # hits in a row, from the end, after which the rest of a piece is counted by words


class LongSource:
    """What is known of it so far. ``new_hits`` counts how often a sign was found."""

    def __init__(self, kind: str, name: str, words: Words) -> None:
        self.kind, self.name = kind, name
        self.size = 0
        self.new_hits = 0
        self._words = words
        self._clock = Clock()
        self._learnt = False
        self._rest = b""
        self._before = 0  # whole lines that were read
        self.tallies: dict[int, Tally] = {}  # by the signs' numbers
        self._neighbours = Neighbours()

    @property
    def lines(self) -> int:
        """How many lines there are, also one without its end."""
        return self._before + bool(self._rest)

    def feed(self, data: bytes) -> None:
        """The next bytes; they may end within a line."""
        self.size += len(data)
        if not self._learnt:
            self._clock.learn(data[:_SAMPLE].decode("utf-8", "replace"))
            self._learnt = self.size >= _SAMPLE
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            self._search(self._rest + whole + newline)
            self._rest = rest
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

    @property
    def kept(self) -> Kept:
        """The lines around the hits."""
        return Kept(self._neighbours.spans, self._read)

    def _read(self, number: int, text: str) -> Entry:
        return entry_of(self.name, self.kind, number, text[:LONGEST], self._clock)

    def _search(self, chunk: bytes) -> None:
        piece = _Piece(self, chunk)
        for index, places in self._words.find(piece.low):
            sign = self._words.signs[index]
            tally = self.tallies.get(index)
            if tally is None:
                tally = self.tallies[index] = Tally(sign.first, sign.last)
            self.new_hits += piece.tally(index, sign, tally, places)
        if chunk.endswith(b"\n"):
            self._neighbours.settle(chunk, self._before, sorted(piece.kept.items()))
            self._neighbours.prune(self._alive)
        self._before += chunk.count(b"\n")

    def _alive(self) -> set[int]:
        return {hit.entry.line for tally in self.tallies.values() for hit in tally.hits()}


class _Piece:
    """A piece of whole lines, or of one endless line, that is searched."""

    def __init__(self, source: LongSource, chunk: bytes) -> None:
        self.chunk = chunk
        self.low = chunk.lower()
        self.kept: dict[int, int] = {}  # where the lines of kept hits begin, and their numbers
        self._source = source
        self._ends = self._count()
        self._read: dict[tuple[int, int], Entry] = {}

    def tally(self, index: int, sign: Sign, tally: Tally, places: list[int]) -> int:
        """Add a sign's hits; returns how many lines had it."""
        lines = self._lines(places)
        before, count = tally.line, 0
        start = 0
        while start < len(lines) and not tally.full:
            hit = self._hit(index, sign, lines[start])
            start += 1
            if hit is not None and hit.entry.line != before:
                tally.add(hit)
                count += 1
                before = hit.entry.line
                self._keep(hit, lines[start - 1])
        count += self._from_the_end(index, sign, tally, lines[start:])
        tally.count += count
        return count

    def _from_the_end(self, index: int, sign: Sign, tally: Tally, places: list[int]) -> int:
        """Add the last hits. Once there are enough, and every line tried was one, the lines before them are
        only counted."""
        found: list[tuple[Hit, int]] = []
        wanted = tally.last.maxlen or 0
        before, seen, count = tally.line, 0, 0
        for tried, place in enumerate(reversed(places)):
            if tried >= max(wanted, _TRIED) and count == tried:
                count += len(places) - tried
                break
            hit = self._hit(index, sign, place)
            if hit is None or hit.entry.line in (before, seen):
                continue
            seen = hit.entry.line
            count += 1
            if len(found) < wanted:
                found.append((hit, place))
        for hit, place in reversed(found):
            tally.add(hit)
            self._keep(hit, place)
        return count

    def _lines(self, places: list[int]) -> list[int]:
        """One place of each line."""
        rows: list[int] = []
        find, low, end = self.low.find, self.low, -1
        size = len(low)
        for place in places:
            if place > end:
                rows.append(place)
                end = find(b"\n", place)
                if end < 0:
                    end = min(place + LONGEST // 2, size)  # an endless line: some places in it
        return rows

    def _hit(self, index: int, sign: Sign, place: int) -> Hit | None:
        start = self.chunk.rfind(b"\n", 0, place) + 1
        end = self.chunk.find(b"\n", place)
        end = len(self.chunk) if end < 0 else end
        left, right = _around(self.chunk, start, end, place)
        if sign.also and not self._source._words.may(index, self.low[left:right]):
            return None
        entry = self._read.get((left, right))
        if entry is None:
            entry = self._read[left, right] = self._entry(start, left, right)
        if sign.kinds and entry.kind not in sign.kinds and self._source.kind not in sign.kinds:
            return None
        match = sign.pattern.search(entry.plain)
        return Hit(entry=entry, match=match) if match else None

    def _entry(self, start: int, left: int, right: int) -> Entry:
        source = self._source
        step = start // _STEP
        number = source._before + self._ends[step] + self.chunk.count(b"\n", step * _STEP, start) + 1
        text = self.chunk[left:right].decode("utf-8", "replace").rstrip("\r")
        return entry_of(source.name, source.kind, number, text, source._clock)

    def _keep(self, hit: Hit, place: int) -> None:
        self.kept[self.chunk.rfind(b"\n", 0, place) + 1] = hit.entry.line

    def _count(self) -> list[int]:
        ends, total = [0], 0
        for start in range(0, len(self.chunk), _STEP):
            total += self.chunk.count(b"\n", start, start + _STEP)
            ends.append(total)
        return ends


def _around(chunk: bytes, start: int, end: int, place: int) -> tuple[int, int]:
    """Where the part of a line to read is: between its carriage returns, and not longer than is kept."""
    if b"\r" in chunk[start : end - 1]:
        start = max(start, chunk.rfind(b"\r", start, place) + 1)
        cut = chunk.find(b"\r", place, end)
        end = cut if cut >= 0 else end
    if end - start <= LONGEST:
        return start, end
    left = max(start, place - LONGEST // 2)
    right = min(end, left + LONGEST)
    while left > start and chunk[left] & 0xC0 == 0x80:  # not within a letter
        left -= 1
    while right < end and chunk[right] & 0xC0 == 0x80:
        right += 1
    return left, right
