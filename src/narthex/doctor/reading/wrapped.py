"""Lines that a terminal, or whoever pasted them, broke in pieces, and lines that another one tore.

A piece is only added to the line before it where the structure says so: an open quote, a key of the same
record, a constant width, a missing carrier where all others have one. Whatever begins as a line of its own
begins one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from narthex.doctor.evidence import Part
from narthex.doctor.reading.carrier import Line, clean
from narthex.doctor.reading.lines import LONGEST, read_line

# What begins a line wherever it stands; and what may be the rest of one, too: «read: connection reset».
_SURELY = re.compile(
    r"time=|level=|ts=|\[GIN|\{\"|\[?\d{4}[-/]\d\d[-/]\d\d|\[ *\d+\.\d+\]|\d+\.\d\d\.\d{3}\.\d{3} [IWED]"
    r"|(?:INFO|WARN|WARNING|ERROR|DEBUG|CRITICAL)\b|[Ee]rror:|panic:|fatal error:|goroutine |Traceback"
    r"|File \"|During handling"
    r"|srv |slot |que |main:|ggml_|llama_|llm_|load_|print_info|common_|clip_|sched_|CUDA error|ROCm error"
    r"|GGML_ASSERT|NVRM|Segmentation|Aborted|Killed|SIG[A-Z]+|!!!|\*|\.\.\.|…|--? "
    r"|[$#>❯%] |~|PS C:|\[?[\w.-]+@|docker |curl |sudo |ollama |nvidia-smi"
)
_MAYBE = re.compile(r"[A-Za-z_][\w.:]*(?:\([^)]*\))?: |[\w.]*(?:Error|Exception)\b")
_SAID = re.compile(r"Error: |\d{4}/\d\d/\d\d [\d:]{8} \w+\.go:\d+: ")  # said on one line: ollama, old Ollama
_ACCESS = re.compile(r"\[GIN\] \d{4}/[^\"]*\|[^\"]*(?:\"[^\"]*)?$")  # ends with a path in quotes
_RECORD = re.compile(r"(?:time=\S+ )?(?:level=[A-Z]+|source=\S+\.go:\d+)|msg=")
_PAIRS = re.compile(r"\s*(?:(?:\"[\w. -]+\"|[A-Za-z_][\w.-]*)=(?:\"(?:[^\"\\]|\\.)*(?:\"|$)|[^\s\"]*)\s*)+$")
_URL = re.compile(r"\b(?:Get|Post|Head|Put|Delete|Patch) \"?https?://[^\"\s]*\"?:?\s*$")
_CAUSE = re.compile(
    r"\s*(?:dial |tls: |x509: |lookup |(?:read|write) tcp|net/http|http: |context |EOF\b|proxyconnect"
    r"|unexpected|remote )"
)
_OPEN = re.compile(r"(?:^|[^\\])(?:\\\\)*\"")
_OWN = re.compile(r"(?:time=\d{4}-\S+ level=[A-Z]+ |\[GIN\] \d{4}/\d\d/\d\d - )")
_TABLE = re.compile(r"^\s*[|+╭│├╰┌└=#-]|[▕█▏|+]\s*$|\s{3,}\S.*\s{3,}\S")
_DIGITS = re.compile(r"\d+")
_WIDTHS = frozenset((80, 100, 120, 132, 140, 150, 160, 180, 200, 238, 240))
_PIECES = 12  # of one line, at most
_NEAR = 3  # a torn line goes on within so many


class Piece(msgspec.Struct, frozen=True):
    """A physical line, or what stands between two carriage returns of one."""

    number: int
    text: str
    line: Line


class Logical(msgspec.Struct, frozen=True):
    """A line as it was before it was wrapped. ``other``: the same, put together in the other likely way."""

    number: int
    text: str
    line: Line
    plain: str
    other: str = ""
    parts: tuple[Part, ...] = ()
    other_parts: tuple[Part, ...] = ()


def logical_lines(rows: Sequence[str]) -> list[Logical]:
    """All lines of a short text, the wrapped and torn ones put together."""
    pieces = [
        Piece(number, text, read_line(text))
        for number, row in enumerate(rows, start=1)
        for text in segments(row)
    ]
    shape = _Shape(pieces)
    groups: list[list[Piece]] = []
    last: dict[str, list[Piece]] = {}
    for piece in pieces:
        group = last.get(piece.line.stream) if piece.line.carried else groups[-1] if groups else None
        if group is not None and len(group) < _PIECES and shape.goes_on(group, piece):
            group.append(piece)
            continue
        groups.append([piece])
        last[piece.line.stream] = groups[-1]
    return [_joined(group, shape) if len(group) > 1 else one for group, one in _untorn(groups)]


def segments(row: str) -> Iterator[str]:
    """A line without its end; a progress line is cut at its carriage returns, an endless one in pieces."""
    row = row.rstrip("\r")
    before = ""
    for text in row.split("\r") if "\r" in row else (row,):
        if "\r" in row:
            masked = re.sub(r"[\d▏▎▍▌▋▊▉█▕ .]+", "0", text)
            if masked in (before, "", "0"):
                continue
            before = masked
        if len(text) <= LONGEST:
            yield text
        else:
            yield from (text[start : start + LONGEST] for start in range(0, len(text), LONGEST))
    if not row.strip("\r"):
        yield ""


class _Shape:
    """What the whole text looks like."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        full = [piece for piece in pieces if piece.line.body.strip()]
        lengths = Counter(len(piece.text) for piece in full)
        self.width = max(lengths, default=0)
        often = lengths[self.width]
        tables = sum(len(one.text) == self.width and _is_row(one) for one in full)
        self.constant = self.width >= 40 and (often >= 2 or self.width in _WIDTHS) and not tables

    def goes_on(self, group: Sequence[Piece], piece: Piece) -> bool:
        """Whether a piece belongs to the line before it."""
        before, body = group[-1], piece.line.body
        if not body.strip() or not before.line.body.strip() or piece.number - before.number > _NEAR:
            return False
        head = "".join(one.line.body for one in group)
        surely = _SURELY.match(body.lstrip()) is not None
        begins = surely or _MAYBE.match(body.lstrip()) is not None
        if _URL.search(head) and _CAUSE.match(body):
            return True
        if head.rstrip().endswith(":") and body[:1].isspace() and not begins:
            return True
        if piece.line.carried or surely:
            return False
        if self._is_open(group, head, body):
            return True
        return not begins and self._bare_goes_on(group, head, body)

    def _is_open(self, group: Sequence[Piece], head: str, body: str) -> bool:
        """Whether the line can't end where it was cut, and the rest looks like one: indented, or behind a
        full line."""
        full = self.constant and len(group[-1].text) == self.width
        indented = body[:1].isspace()
        if _ACCESS.match(head):
            return full or indented or head.count('"') == 1
        if not (full or indented):
            return False
        if _RECORD.search(head) and len(_OPEN.findall(head)) % 2:
            return True
        if indented and _SAID.match(head):
            return not body.lstrip().startswith("at ")  # no stack of calls
        return full and group[0].line.carried

    def _bare_goes_on(self, group: Sequence[Piece], head: str, body: str) -> bool:
        """Whether a piece that nothing carried, and that begins no line of its own, belongs to it."""
        before = group[-1]
        if _RECORD.search(head):
            if _PAIRS.match(body):
                return not ("msg=" in head and body.lstrip().startswith("msg="))
            if len(_OPEN.findall(head)) % 2:
                return True
        if self.constant and len(before.text) == self.width:
            return _start(before.line.body) != _start(body)
        # all lines of a journal or a container are carried, also those that the program indented
        return group[0].line.carried and body[:1].isspace()

    def tight(self, group: Sequence[Piece]) -> bool:
        """Whether the pieces were cut at a width, and so within words."""
        return self.constant and all(len(piece.text) == self.width for piece in group[:-1])


def _is_row(piece: Piece) -> bool:
    """Whether it is a table's; the access log only looks so."""
    return not piece.line.body.startswith("[GIN]") and _TABLE.search(piece.text) is not None


def _start(body: str) -> str:
    """Lines that begin alike are rows of a list, not pieces of each other."""
    return _DIGITS.sub("0", body[:8])


def _joined(group: Sequence[Piece], shape: _Shape) -> Logical:
    first = group[0]
    tight, loose = _together(group, ""), _together(group, " ")
    best, other = (tight, loose) if shape.tight(group) else (loose, tight)
    return Logical(first.number, first.text, first.line, best[0], other[0], best[1], other[1])


def _together(group: Sequence[Piece], between: str) -> tuple[str, tuple[Part, ...]]:
    text = ""
    parts: list[Part] = []
    for piece in group:
        body = piece.line.body if not parts else piece.line.body.lstrip() if between else piece.line.body
        words = clean(body)
        if not between:  # a blank at the cut stands at the end of one piece or the beginning of the next
            words = " " * (bool(parts) and body[:1].isspace()) + words + " " * body[-1:].isspace()
        elif parts:
            text += between
        parts.append(Part(piece.number, piece.text, len(text)))
        text += words
    return text.rstrip(), tuple(parts)


def _untorn(groups: Sequence[list[Piece]]) -> Iterator[tuple[list[Piece], Logical]]:
    """Each line; of a torn one the other program's line alone, and its two halves where the second stands."""
    torn: dict[str, tuple[Piece, str]] = {}
    for group in groups:
        piece = group[0]
        body = piece.line.body
        found = _OWN.search(body, 1) if len(group) == 1 and not _OWN.match(body) else None
        halves = torn.get(piece.line.stream)
        if found is not None and body[: found.start()].strip() and not _RECORD.search(body[: found.start()]):
            torn[piece.line.stream] = piece, body[: found.start()]
            plain = clean(body)
            yield group, Logical(piece.number, piece.text, _behind(piece.line, found.start()), plain)
        elif halves is not None and not _OWN.match(body) and len(group) == 1:
            del torn[piece.line.stream]
            yield group, _mended(halves, piece) or _alone(piece)
        else:
            yield group, _alone(piece)


def _mended(halves: tuple[Piece, str], rest: Piece) -> Logical | None:
    """The halves together, if the second does not begin a line of its own."""
    before, head = halves
    body = rest.line.body
    if (
        rest.number - before.number > _NEAR
        or not body.strip()
        or (_SURELY.match(body.lstrip()) or _MAYBE.match(body.lstrip()))
    ):
        return None
    plain = clean(head + body)
    start = min(len(clean(head)), len(plain))
    parts = (Part(before.number, before.text, 0), Part(rest.number, rest.text, start))
    return Logical(rest.number, rest.text, rest.line, plain, parts=parts)


def _behind(line: Line, start: int) -> Line:
    return Line(line.body[start:], line.stream, line.stamp, line.carried)


def _alone(piece: Piece) -> Logical:
    return Logical(piece.number, piece.text, piece.line, clean(piece.line.body))
