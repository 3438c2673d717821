"""Evidence: lines of logs and transcripts that matched a sign, and readings of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec

from narthex.doctor.finding import Fact, Quote, Skipped
from narthex.doctor.sign import Sign

_SHORT = 2 << 20  # bytes; of a longer source only the last lines at hand are looked through without a sign
_AT_HAND = 5_000
KINDS = (
    "ollama_log",
    "docker_log",
    "openwebui_log",
    "comfyui_log",
    "llama_server_log",
    "client_error",
    "nvidia_smi",
    "dmesg",
    "commands",  # a terminal: what was typed, and what it answered
    "host",  # readings of this machine, a line each
)


class Part(msgspec.Struct, frozen=True):
    """A physical line of a wrapped one."""

    line: int
    text: str  # word for word
    start: int  # where it begins in ``plain``


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line, as it stands in its source."""

    source: str
    kind: str  # of the source; of a service in a mixed log its own
    line: int  # counted from 1; of a wrapped line its first
    text: str  # word for word
    plain: str  # without what carried it here, colours and escapes; a wrapped line is put together
    at: float | None = None  # seconds since 1970, UTC; None where the line tells no time
    stream: str = ""  # who wrote it: "ollama[2409]", "ollama-1", "pod/x/ollama"; "" unknown
    parts: tuple[Part, ...] = ()  # of a wrapped line its physical ones; else empty

    @property
    def place(self) -> tuple[str, int]:
        """Two lines of one source are in order; of two sources nothing is said."""
        return self.source, self.line

    def quote(self, start: int = 0, end: int = 0) -> Quote:
        """Itself, as evidence; of a wrapped line the physical one that holds most of ``plain[start:end]``."""
        time = "" if self.at is None else datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")
        part = self._part(start, end)
        return Quote(source=self.source, line=part.line, text=part.text, time=time)

    def _part(self, start: int, end: int) -> Part:
        if not self.parts:
            return Part(self.line, self.text, 0)
        ends = [*(part.start for part in self.parts[1:]), len(self.plain)]
        return max(
            zip(self.parts, ends, strict=True),
            key=lambda row: min(end, row[1]) - max(start, row[0].start) if end > start else 0,
        )[0]


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A line where a sign was found."""

    entry: Entry
    match: Any  # re.Match over entry.plain

    def __getitem__(self, group: str | int) -> str:
        """What a group of the pattern holds; "" where it took no part."""
        return str(self.match[group] or "")

    def number(self, group: str | int) -> float | None:
        """A group as a number; None where it is none."""
        try:
            return float(self[group].replace(",", ""))
        except ValueError:
            return None

    def quote(self) -> Quote:
        """The line, as evidence."""
        return self.entry.quote(*self.match.span())


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a collector looked at on this machine. ``value`` None: it can't be told, see ``gap``."""

    name: str  # a row of narthex.doctor.collect.names: "module.nvidia_uvm"
    value: Any = None
    text: str = ""  # as it is quoted: "nvidia_uvm is not in /proc/modules"
    gap: str = ""
    about: str = ""  # which container, card or service, where there can be several


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was read."""

    kind: str
    name: str
    lines: int
    bytes: int


class Evidence:
    """Everything that rules may look at. They read it and change nothing."""

    def __init__(
        self,
        *,
        hits: dict[Sign, Sequence[Hit]],
        counts: dict[Sign, int],
        sources: Sequence[Source] = (),
        kept: Mapping[str, Mapping[int, Entry]] | None = None,
        readings: Sequence[Reading] = (),
        facts: Sequence[Fact] = (),
        skipped: Sequence[Skipped] = (),
        live: bool = False,
    ) -> None:
        """``kept``: of each source the lines that are still at hand, by number and in order: all of a short
        one, of a long one those around its hits. ``live``: it is this machine, now."""
        self._hits, self._counts = hits, counts
        self._kept = kept if kept is not None else {}
        self._asked: dict[tuple[tuple[Sign, ...], frozenset[str]], Sequence[Hit]] = {}
        self.sources = tuple(sources)
        self.readings = tuple(readings)
        self.facts = tuple(facts)
        self.skipped = tuple(skipped)
        self.live = live

    def hits(self, *signs: Sign, kinds: Iterable[str] = ()) -> list[Hit]:
        """Lines with one of these signs, each line once, in the order of the sources and lines. Of very many
        in one source the first and the last are kept."""
        return list(self._in_order(signs, frozenset(kinds)))

    def first(self, *signs: Sign, kinds: Iterable[str] = ()) -> Hit | None:
        """The first line with one of these signs."""
        return next(iter(self._in_order(signs, frozenset(kinds))), None)

    def last(self, *signs: Sign, kinds: Iterable[str] = ()) -> Hit | None:
        """The last one."""
        return next(reversed(self._in_order(signs, frozenset(kinds))), None)

    def count(self, *signs: Sign) -> int:
        """How many lines had it, also those that were not kept. Of thousands in a row some are counted by
        their words alone."""
        return sum(self._counts.get(sign, 0) for sign in signs)

    def has(self, *signs: Sign, kinds: Iterable[str] = ()) -> bool:
        """Whether a line with one of these signs is there."""
        return bool(self._in_order(signs, frozenset(kinds))) if kinds else any(map(self._hits.get, signs))

    def has_kind(self, *kinds: str) -> bool:
        """Whether there is any text of these kinds."""
        return any(source.kind in kinds for source in self.sources)

    def lines(self, *kinds: str) -> list[Entry]:
        """The lines at hand of some kinds: for transcripts and tables, which are short. Of a long source the
        last lines at hand."""
        return [
            entry
            for source in self.sources
            for entry in self._at_hand(source)
            if not kinds or source.kind in kinds or entry.kind in kinds
        ]

    def around(self, entry: Entry, before: int = 3, after: int = 6) -> list[Entry]:
        """The lines at hand around one, itself among them."""
        kept = self._kept.get(entry.source, {})
        numbers = range(entry.line - before, entry.line + after + 1)
        return [
            entry if number == entry.line else kept[number]
            for number in numbers
            if number in kept or number == entry.line
        ]

    def search(self, pattern: str, *kinds: str) -> list[Hit]:
        """Look through the lines at hand: only for short sources; elsewhere use a Sign."""
        compiled = re.compile(pattern, re.IGNORECASE)
        found = ((entry, compiled.search(entry.plain)) for entry in self.lines(*kinds))
        return [Hit(entry=entry, match=match) for entry, match in found if match]

    def reading(self, name: str, about: str = "") -> Reading | None:
        """What a collector found; None where nothing of that name was looked at."""
        return next(
            (row for row in self.readings if row.name == name and (not about or row.about == about)), None
        )

    def all_readings(self, name: str) -> list[Reading]:
        """The same of several containers, cards or services."""
        return [row for row in self.readings if row.name == name]

    def value(self, name: str, about: str = "") -> Any:
        """A reading's value; None where it is unknown or was not looked at."""
        row = self.reading(name, about)
        return row.value if row is not None else None

    def quote_reading(self, reading: Reading) -> Quote:
        """A reading as evidence: its line in the source «host»."""
        return Quote(source="host", line=self.readings.index(reading) + 1, text=reading.text or reading.gap)

    def _in_order(self, signs: tuple[Sign, ...], kinds: frozenset[str]) -> Sequence[Hit]:
        """Many rules ask for the same."""
        known = self._asked.get((signs, kinds))
        if known is None:
            seen: dict[tuple[str, int], Hit] = {}
            for sign in signs:
                for hit in self._hits.get(sign, ()):
                    if not kinds or hit.entry.kind in kinds:
                        seen.setdefault(hit.entry.place, hit)
            rows = seen.values()
            known = sorted(rows, key=lambda hit: (self._order[hit.entry.source], hit.entry.line))
            self._asked[signs, kinds] = known
        return known

    def _at_hand(self, source: Source) -> Iterator[Entry]:
        kept = self._kept.get(source.name, {})
        start = max(0, len(kept) - _AT_HAND) if source.bytes > _SHORT else 0
        return (kept[number] for number in islice(kept, start, None))

    @cached_property
    def _order(self) -> dict[str, int]:
        return {source.name: place for place, source in enumerate(self.sources)}
