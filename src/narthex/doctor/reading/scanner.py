"""Searches texts for signs: all signs at once, each text once, in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

from narthex.doctor.evidence import Entry, Evidence, Hit, Reading, Source
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.reading.long_source import LongSource
from narthex.doctor.reading.short_source import ShortSource
from narthex.doctor.reading.text import Decoder, Text
from narthex.doctor.reading.words import Words
from narthex.doctor.sign import Sign

SHORT = 2 << 20  # bytes of a source that is read line by line
_ALL_SHORT = 6 << 20  # and of all such sources together


def read_evidence(
    texts: Iterable[Text],
    signs: Sequence[Sign],
    *,
    readings: Sequence[Reading] = (),
    facts: Sequence[Fact] = (),
    skipped: Sequence[Skipped] = (),
    live: bool = False,
) -> Evidence:
    """Everything that rules look at, from texts and from what collectors found. A file that can't be read to
    its end is told among what was skipped."""
    scanner = Scanner(signs, short=SHORT)
    broken: list[Skipped] = []
    for text in texts:
        name = scanner.free_name(text.name)
        scanner.feed(text.kind, name, b"")
        try:
            for chunk in text.chunks():
                scanner.feed(text.kind, name, chunk)
        except (OSError, EOFError, zlib.error) as error:
            broken.append(Skipped(what=name, why=f"It could not be read to its end: {error}."))
        scanner.finish(name)
    return scanner.evidence(readings=readings, facts=facts, skipped=(*skipped, *broken), live=live)


class Scanner:
    """Reads texts as they come; :meth:`evidence` tells at any time what was found so far.

    A source of up to ``short`` bytes is held back and read as a whole, its wrapped lines put together. With 0
    every line is searched as soon as its end comes, which is what following a log needs.
    """

    def __init__(self, signs: Sequence[Sign], *, short: int = 0) -> None:
        self._words = Words(signs)
        self._short = short
        self._decoders: dict[str, Decoder] = {}
        self._held: dict[str, tuple[str, list[bytes]]] = {}
        self._sources: dict[str, LongSource | ShortSource | None] = {}

    @property
    def new_hits(self) -> int:
        """How often a sign was found since the beginning, in sources that are not held back."""
        return sum(one.new_hits for one in self._sources.values() if isinstance(one, LongSource))

    def free_name(self, name: str) -> str:
        """The name, with a number where another source has it already."""
        free, number = name, 1
        while free in self._sources:
            number += 1
            free = f"{name} ({number})"
        return free

    def feed(self, kind: str, name: str, data: bytes) -> None:
        """The next bytes of a source; they may end within a line, or within a letter."""
        decoder = self._decoders.setdefault(name, Decoder())
        data = decoder.feed(data)
        source = self._sources.setdefault(name, None)
        if isinstance(source, LongSource):
            source.feed(data)
            return
        _, held = self._held.setdefault(name, (kind, []))
        held.append(data)
        if not self._short or sum(map(len, held)) > self._short:
            self._let_go(name)

    def finish(self, name: str) -> None:
        """Nothing more comes of a source: its last line is searched also without an end."""
        source = self._sources.get(name)
        if isinstance(source, LongSource):
            source.finish()

    def evidence(
        self,
        *,
        readings: Sequence[Reading] = (),
        facts: Sequence[Fact] = (),
        skipped: Sequence[Skipped] = (),
        live: bool = False,
    ) -> Evidence:
        """What rules look at, of all that came so far. A line without its end is not searched yet, unless
        its source is held back."""
        read: dict[str, LongSource | ShortSource] = {}
        left = _ALL_SHORT
        for name in self._sources:
            size = sum(map(len, self._held[name][1])) if name in self._held else 0
            left -= size
            if name in self._held and left < 0:
                self._let_go(name)
                self.finish(name)
            read[name] = self._read(name)
        if readings:
            host = "\n".join(_one_line(row.text or row.gap) for row in readings)
            read["host"] = ShortSource("host", "host", host.encode("utf-8", "replace"), self._words)
        hits: dict[Sign, list[Hit]] = {}
        counts: dict[Sign, int] = {}
        kept: dict[str, Mapping[int, Entry]] = {}
        for name, source in read.items():
            kept[name] = source.kept
            for index, (found, count) in source.hits().items():
                sign = self._words.signs[index]
                hits.setdefault(sign, []).extend(found)
                counts[sign] = counts.get(sign, 0) + count
        return Evidence(
            hits={sign: rows for sign, rows in hits.items() if rows},
            counts=counts,
            sources=[
                Source(kind=source.kind, name=name, lines=source.lines, bytes=source.size)
                for name, source in read.items()
            ],
            kept=kept,
            readings=readings,
            facts=facts,
            skipped=skipped,
            live=live,
        )

    def _read(self, name: str) -> LongSource | ShortSource:
        source = self._sources[name]
        if source is not None:
            return source
        kind, held = self._held[name]
        return ShortSource(kind, name, b"".join(held), self._words)

    def _let_go(self, name: str) -> None:
        """From now on its lines are searched as they come."""
        kind, held = self._held.pop(name)
        source = self._sources[name] = LongSource(kind, name, self._words)
        for piece in held:
            source.feed(piece)


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))
