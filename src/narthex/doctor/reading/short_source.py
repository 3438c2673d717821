"""A short source: every line is read, and wrapped or torn ones are put together first."""

from __future__ import annotations

from bisect import bisect_right

from narthex.doctor.evidence import Entry, Hit
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.lines import entry_of
from narthex.doctor.reading.shapes import fits
from narthex.doctor.reading.words import Words, masked
from narthex.doctor.reading.wrapped import Logical, logical_lines

_SAMPLE = 64 << 10


class ShortSource:
    """Its lines and what was found in them."""

    def __init__(self, kind: str, name: str, data: bytes, words: Words) -> None:
        self.kind, self.name = kind, name
        text = data.decode("utf-8", "replace")
        self._clock = Clock()
        self._clock.learn(text[:_SAMPLE])
        rows = text.split("\n")
        if rows[-1] == "":
            rows.pop()
        self.lines = len(rows)
        self.size = len(data)
        self.kept: dict[int, Entry] = {}
        self._found: dict[int, dict[int, Hit]] = {}  # by the signs' numbers and the lines
        self._words = words
        logical = logical_lines(rows)
        entries = [self._entry(line) for line in logical]
        for entry in entries:
            self.kept.setdefault(entry.line, entry)
        self._search(entries)
        self._search(
            [self._entry(line, other=True) for line in logical if line.other not in ("", line.plain)]
        )

    def hits(self) -> dict[int, tuple[list[Hit], int]]:
        """Of each sign those that are kept, and how many there were."""
        kept: dict[int, tuple[list[Hit], int]] = {}
        for index, hits in self._found.items():
            sign = self._words.signs[index]
            rows = [hits[line] for line in sorted(hits)]
            middle = len(rows) - sign.first - sign.last
            cut = rows if middle <= 0 else [*rows[: sign.first], *rows[sign.first + middle :]]
            kept[index] = cut, len(rows)
        return kept

    def _entry(self, line: Logical, other: bool = False) -> Entry:
        return entry_of(
            self.name,
            self.kind,
            line.number,
            line.text,
            self._clock,
            line=line.line,
            plain=line.other if other else line.plain,
            parts=line.other_parts if other else line.parts,
        )

    def _search(self, entries: list[Entry]) -> None:
        """Find all signs; a line in which one was found already is left out for that sign."""
        starts, rows, size = [], [], 0
        for entry in entries:
            row = entry.plain.lower().encode("utf-8", "replace")
            starts.append(size)
            size += len(row) + 1
            rows.append(row)
        words: dict[int, list[int]] = {}
        for base, matches in self._words.find(masked(b"\n".join(rows))):
            for word, place, _ in matches:
                words.setdefault(bisect_right(starts, base + place) - 1, []).append(word)
        for number, found in words.items():
            entry = entries[number]
            for index in self._words.signs_of(found):
                sign = self._words.signs[index]
                if not sign.may(rows[number]) or not fits(sign.kinds, entry, self.kind):
                    continue
                hits = self._found.setdefault(index, {})
                if entry.line not in hits and (match := sign.pattern.search(entry.plain)) is not None:
                    hits[entry.line] = Hit(entry=entry, match=match)
