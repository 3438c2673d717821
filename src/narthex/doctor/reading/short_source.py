"""A short source: every line is read, and wrapped or torn ones are put together first."""

from __future__ import annotations

from bisect import bisect_right

from narthex.doctor.evidence import Entry, Hit
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.lines import entry_of
from narthex.doctor.reading.tally import Tally
from narthex.doctor.reading.words import Words
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
        self.tallies: dict[int, Tally] = {}
        logical = logical_lines(rows)
        entries = [self._entry(line) for line in logical]
        for entry in entries:
            self.kept.setdefault(entry.line, entry)
        missed = self._search(words, entries)
        others = [
            self._entry(line, other=True)
            for line, entry in zip(logical, entries, strict=True)
            if line.other and line.other != line.plain
        ]
        if others:
            self._search(words, others, missed)

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

    def _search(
        self, words: Words, entries: list[Entry], known: set[tuple[int, int]] | None = None
    ) -> set[tuple[int, int]]:
        """Find all signs; ``known``: signs and lines that are found already. Returns what is found."""
        found = set(known or ())
        starts, size = [], 0
        rows = []
        for entry in entries:
            row = entry.plain.lower().encode("utf-8", "replace")
            starts.append(size)
            size += len(row) + 1
            rows.append(row)
        for index, places in words.find(b"\n".join(rows)):
            sign = words.signs[index]
            for number in dict.fromkeys(bisect_right(starts, place) - 1 for place in places):
                entry = entries[number]
                if (index, entry.line) in found or not words.may(index, rows[number]):
                    continue
                if sign.kinds and entry.kind not in sign.kinds and self.kind not in sign.kinds:
                    continue
                if (match := sign.pattern.search(entry.plain)) is None:
                    continue
                found.add((index, entry.line))
                tally = self.tallies.setdefault(index, Tally(sign.first, sign.last))
                tally.add(Hit(entry=entry, match=match))
                tally.count += 1
        return found
