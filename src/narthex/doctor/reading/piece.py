"""A piece of a long source that is searched: whole lines, or a part of an endless one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from narthex.doctor.evidence import Entry
from narthex.doctor.reading.lines import LONGEST
from narthex.doctor.reading.shapes import Shape, Shapes, fits
from narthex.doctor.reading.tally import Place, Tally
from narthex.doctor.reading.words import masked

_STEP = 1024  # line ends are counted in steps of so many bytes
_TRIED = 40  # hits in a row, from the end, after which the rest of a piece is counted by words
_Match = tuple[int, int, int]


class Piece:
    """Its lines with signs. ``kept``: where the lines of kept hits begin, and their numbers."""

    def __init__(
        self,
        chunk: bytes,
        before: int,
        shapes: Shapes,
        read: Callable[[int, str], Entry],
    ) -> None:
        """``before``: how many lines stand before it; ``read`` reads one of its lines."""
        self.kept: dict[int, int] = {}
        self._chunk, self._low = chunk, chunk.lower()
        self._masks = masked(self._low)
        self._returns = b"\r" in chunk
        self._used: list[Shape] = []
        self._before, self._reader = before, read
        self._shapes, self._words, self._kind = shapes, shapes.words, shapes.kind
        self._ends = _line_ends(chunk)
        self._cut: dict[int, int] = {}  # ends of parts of lines, by their beginnings
        self._entries: dict[int, Entry] = {}

    def tally(self, tallies: dict[int, Tally]) -> int:
        """Find all signs and add their hits; returns how many there were."""
        self._sort()
        sure: dict[int, list[list[int]]] = {}
        maybe: dict[int, list[list[int]]] = {}
        for shape in self._used:
            for index in shape.sure:
                sure.setdefault(index, []).append(shape.places)
            for index in shape.maybe:
                maybe.setdefault(index, []).append(shape.places)
            shape.places = []
        count = 0
        for rows, certain in ((sure, True), (maybe, False)):
            for index, lists in rows.items():
                places = sorted(place for some in lists for place in some)
                sign = self._words.signs[index]
                tally = tallies.get(index) or Tally(sign.first, sign.last)
                found = self._add(tally, places) if certain else self._try(index, tally, places)
                if found:
                    tally.count += found
                    tallies[index] = tally
                    count += found
        return count

    def _sort(self) -> None:
        """Put every line to its shape. Of those that are not known each is searched for words once."""
        known, idle = self._shapes.known.get, self._shapes.idle
        strange: dict[bytes, list[int]] = {}
        used, left = self._used, 0
        for line in self._masks.split(b"\n"):
            shape = known(line)
            if shape is not None:
                if not shape.idle:
                    places = shape.places
                    if not places:
                        used.append(shape)
                    places.append(left)
            elif line not in idle:
                strange.setdefault(line, []).append(left)
            left += len(line) + 1
        for line, lefts in strange.items():
            self._sort_strange(line, lefts)

    def _sort_strange(self, line: bytes, places: list[int]) -> None:
        """A line of a shape that is not known, and all places where it stands."""
        if len(line) > LONGEST or (self._returns and b"\r" in line[:-1]):
            for left in places:
                for base, matches in self._words.find(line):
                    if matches:
                        self._sort_parts(left, left + len(line), left + base, matches)
        elif matches := self._words.of_line(line):
            shape = self._learn(places[0], places[0] + len(line), matches)
            if not shape.idle:
                if not shape.places:
                    self._used.append(shape)
                shape.places.extend(places)
        else:
            self._shapes.set_aside(line)

    def _sort_parts(self, left: int, right: int, base: int, matches: list[_Match]) -> None:
        """Of a line with carriage returns, or a very long one: its parts with words, each sign once."""
        seen: set[int] = set()
        end = -1
        matches = sorted(matches, key=_start)
        for word, start, _ in matches:
            if base + start < end:
                continue
            begin, end = _around(self._chunk, left, right, base + start)
            first = bisect_left(matches, begin - base, key=_start)
            inside = matches[first : bisect_left(matches, end - base, key=_start)] or [(word, start, 0)]
            known = self._learn(begin, end, inside)
            self._cut[begin] = end
            shape = Shape(
                tuple(index for index in known.sure if index not in seen),
                tuple(index for index in known.maybe if index not in seen),
            )
            shape.places.append(begin)
            self._used.append(shape)
            seen.update(shape.sure)

    def _learn(self, left: int, right: int, matches: list[_Match]) -> Shape:
        return self._shapes.learn(
            self._masks[left:right],
            self._words.signs_of(word for word, _, _ in matches),
            lambda: self._entry(left, right),
        )

    def _add(self, tally: Tally, places: list[int]) -> int:
        """Lines that surely have the sign."""
        if self._number(places[0]) == tally.line:  # an endless line that was counted before
            places = places[1:]
        room = tally.most - len(tally.first)
        wanted = tally.last.maxlen or 0
        head, rest = places[:room], places[room:]
        for place in (*head, *rest[len(rest) - wanted if len(rest) > wanted else 0 :]):
            self._keep(tally, place)
        return len(places)

    def _try(self, index: int, tally: Tally, places: list[int]) -> int:
        """Lines that may have the sign. The last ones are tried from the end: once there are enough, and
        every line tried was one, the lines before them are only counted."""
        places = self._with_words(index, places)
        count = start = 0
        while start < len(places) and len(tally.first) < tally.most:
            if self._matches(index, places[start]) and self._number(places[start]) != tally.line:
                self._keep(tally, places[start])
                count += 1
            start += 1
        found: list[int] = []
        wanted = tally.last.maxlen or 0
        hits = 0
        for tried, place in enumerate(reversed(places[start:])):
            if tried >= max(wanted, _TRIED) and hits == tried:
                hits += len(places) - start - tried
                break
            if self._matches(index, place):
                hits += 1
                if len(found) < wanted:
                    found.append(place)
        for place in reversed(found):
            self._keep(tally, place)
        return count + hits

    def _with_words(self, index: int, places: list[int]) -> list[int]:
        """Those of the lines that hold all words that the sign needs: most fail at its figures."""
        may, low, find = self._words.signs[index].may, self._low, self._low.find
        if self._cut:
            return [left for left in places if may(low[left : self._end(left)])]
        return [left for left in places if may(low[left : find(b"\n", left)])]

    def _matches(self, index: int, left: int) -> bool:
        sign = self._words.signs[index]
        entry = self._entry(left, self._end(left))
        return fits(sign.kinds, entry, self._kind) and sign.pattern.search(entry.plain) is not None

    def _keep(self, tally: Tally, left: int) -> None:
        number = self._number(left)
        tally.add(Place(number, self._chunk[left : self._end(left)]))
        self.kept[self._chunk.rfind(b"\n", 0, left) + 1 if left in self._cut else left] = number

    def _end(self, left: int) -> int:
        if left in self._cut:
            return self._cut[left]
        end = self._chunk.find(b"\n", left)
        return len(self._chunk) if end < 0 else end

    def _entry(self, left: int, right: int) -> Entry:
        entry = self._entries.get(left)
        if entry is None:
            text = self._chunk[left:right].decode("utf-8", "replace")
            entry = self._entries[left] = self._reader(self._number(left), text)
        return entry

    def _number(self, left: int) -> int:
        step = left // _STEP
        return self._before + self._ends[step] + self._chunk.count(b"\n", step * _STEP, left) + 1


def _start(match: _Match) -> int:
    return match[1]


def _line_ends(chunk: bytes) -> list[int]:
    """How many line ends stand before each step."""
    ends, total = [0], 0
    for start in range(0, len(chunk), _STEP):
        total += chunk.count(b"\n", start, start + _STEP)
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
