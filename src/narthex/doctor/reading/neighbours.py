"""The lines around hits of a long source: kept as bytes, read when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from narthex.doctor.evidence import Entry

BEFORE, AFTER = 3, 8
_LONGEST = 8 << 10  # bytes of a span; one hit that stays must not hold a dense region
_NEAR = 600  # bytes between two hits that are kept as one span
_PRUNE = 8 << 20


class Span:
    """Lines that follow each other."""

    __slots__ = ("data", "first", "last")

    def __init__(self, first: int, data: bytes) -> None:
        self.first, self.data = first, data
        self.last = first + data.count(b"\n") - data.endswith(b"\n")


class Neighbours:
    """Spans of one source; those whose hits are no longer kept are let go."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._tail = b""  # the last lines of what was read so far
        self._tail_lines = 0
        self._open: tuple[Span, int] | None = None  # the last span, and how many lines it still wants
        self._size = 0

    def settle(self, chunk: bytes, places: Sequence[tuple[int, int]]) -> None:
        """Keep what is around the hits of a chunk. ``places``: where their lines begin in it, and their
        numbers, in order."""
        self._go_on(chunk)
        first = 0
        for index, (place, _) in enumerate(places):
            after = places[index + 1][0] if index + 1 < len(places) else len(chunk) + _LONGEST
            if after - place > _NEAR or after - places[first][0] > _LONGEST:
                self._keep(chunk, places[first], place)
                first = index + 1
        cut, lines = _back(chunk, len(chunk))
        if cut == 0 and lines < BEFORE:
            cut_tail, more = _back(self._tail, len(self._tail), BEFORE - lines)
            self._tail, self._tail_lines = self._tail[cut_tail:] + chunk, lines + more
        else:
            self._tail, self._tail_lines = chunk[cut:], lines
        if len(self._tail) > _LONGEST:
            self._tail, self._tail_lines = b"", 0

    def prune(self, lines: Callable[[], set[int]]) -> None:
        """Let spans go that hold none of these lines, once there are many."""
        if self._size < _PRUNE:
            return
        alive = lines()
        opened = self._open[0] if self._open else None
        self.spans = [
            span
            for span in self.spans
            if span is opened or any(number in alive for number in range(span.first, span.last + 1))
        ]
        self._size = sum(len(span.data) for span in self.spans)

    def _keep(self, chunk: bytes, first: tuple[int, int], last: int) -> None:
        """The lines from before one hit to behind another."""
        start, lines = _back(chunk, first[0])
        end, missing = _forth(chunk, last)
        data, number = chunk[start:end], first[1] - lines
        if start == 0 and self._tail:
            data, number = self._tail + data, number - self._tail_lines
        self.spans.append(Span(number, data))
        self._size += len(data)
        self._open = (self.spans[-1], missing) if missing else None

    def _go_on(self, chunk: bytes) -> None:
        if self._open is None:
            return
        span, missing = self._open
        end, missing = _forth(chunk, -1, missing)
        span.data += chunk[:end]
        span.last = span.first + span.data.count(b"\n") - span.data.endswith(b"\n")
        self._size += end
        self._open = (span, missing) if missing and len(span.data) < _LONGEST else None


def _back(chunk: bytes, place: int, lines: int = BEFORE) -> tuple[int, int]:
    """Where so many lines before a line's beginning begin, and how many there are."""
    found = 0
    while found < lines and place > 0:
        place = chunk.rfind(b"\n", 0, place - 1) + 1
        found += 1
    return place, found


def _forth(chunk: bytes, place: int, lines: int = AFTER + 1) -> tuple[int, int]:
    """Behind so many lines from this one on, and how many of them are not there yet."""
    at = max(place, 0)
    for found in range(lines):
        end = chunk.find(b"\n", at)
        if end < 0:
            return len(chunk), lines - found - (at < len(chunk))
        at = end + 1
    return at, 0


class Kept(Mapping[int, Entry]):
    """The lines of spans by their numbers, in order."""

    def __init__(self, spans: Sequence[Span], read: Callable[[int, str], Entry]) -> None:
        self._spans, self._read = sorted(spans, key=lambda span: span.first), read
        self._rows: dict[int, Entry | str] | None = None

    def __getitem__(self, number: int) -> Entry:
        row = self._table[number]
        if isinstance(row, str):
            row = self._table[number] = self._read(number, row)
        return row

    def __iter__(self) -> Iterator[int]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def _table(self) -> dict[int, Entry | str]:
        if self._rows is None:
            self._rows = {}
            for span in self._spans:
                rows = span.data.removesuffix(b"\n").split(b"\n")
                for number, row in enumerate(rows, start=span.first):
                    self._rows.setdefault(number, row.decode("utf-8", "replace").rstrip("\r"))
        return self._rows
