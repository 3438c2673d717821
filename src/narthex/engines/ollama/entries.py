"""The three kinds of lines in Ollama's log: its own, the access log, and what the runner prints, raw.

They share one stream without a mark: a raw line can be torn by one of Ollama's own, and its end comes as the
next raw line. Before them may stand what carried the log here (journal, Kubernetes, Compose, timestamps).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from narthex.engines.ollama.durations import go_seconds

_CARRIER = re.compile(
    r"^(?:[A-Z][a-z]{2} [ \d]\d [\d:]{8} \S+ [\w.-]+\[\d+\]: "  # journal
    r"|\[(?:pod/)?[\w./-]+/[\w./-]+\] "  # kubectl --prefix
    r"|[\w.-]+\s+\| "  # compose
    r"|\d{4}-\d\d-\d\dT[\d:.]+Z )"  # docker --timestamps
)
_OWN = re.compile(r"(?:time=\S+ )?\blevel=([A-Z]+(?:[+-]\d+)?) (?:source=\S+ )?msg=")
_PLAIN = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \S+\.go:\d+: (?:(DEBUG|INFO|WARN|ERROR) )?(.*)")
_ACCESS = re.compile(
    r"\[GIN\] (?P<time>\d{4}/\d\d/\d\d - \d\d:\d\d:\d\d) \|\s*(?P<status>\d{3})\s*\|\s*(?P<took>\S+) \|"
    r"\s*(?P<client>\S+) \| (?P<method>\w+)\s+\"(?P<path>.*)\""
)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = re.compile(rf'({_QUOTED}|[^\s="]+)=({_QUOTED}|\S*)')
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of Ollama's own. Before 0.1.21 it has no fields."""

    level: str  # "DEBUG", "INFO", "WARN", "ERROR"
    msg: str
    fields: dict[str, str] = {}
    line: str  # as it was written


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the access log, written when a request ended. A stream that failed has status 200, too."""

    status: int  # 499: the client left while its own load ran
    seconds: float
    client: str
    method: str
    path: str
    line: str


def sort_lines(lines: Iterable[str]) -> Iterator[Entry | Access | str]:
    """Each line as what it is: an Entry, an Access, or the runner's own words; torn ones put together."""
    torn = ""
    for line in lines:
        text = _CARRIER.sub("", line.rstrip("\r\n"), count=1)
        before, own = _own(text)
        if own is None:
            yield torn + text
            torn = ""
        else:
            torn += before
            yield own
    if torn:
        yield torn


def entries(lines: Iterable[str]) -> list[Entry]:
    """Ollama's own lines."""
    return [line for line in sort_lines(lines) if isinstance(line, Entry)]


def raw_lines(lines: Iterable[str]) -> list[str]:
    """What the runner printed; of two runners at once, the lines of both."""
    return [line for line in sort_lines(lines) if isinstance(line, str)]


def access_lines(lines: Iterable[str]) -> list[Access]:
    """The access log."""
    return [line for line in sort_lines(lines) if isinstance(line, Access)]


def _own(text: str) -> tuple[str, Entry | Access | None]:
    """What stands before Ollama's own line in this line, and that line; None where there is none."""
    if (found := _OWN.search(text)) is not None:
        line = text[found.start() :]
        pairs = {_plain(pair[1]): _plain(pair[2]) for pair in _PAIR.finditer(line)}
        msg = pairs.pop("msg", "")
        fields = {name: value for name, value in pairs.items() if name not in ("time", "level", "source")}
        return text[: found.start()], Entry(level=found[1], msg=msg, fields=fields, line=line)
    if (found := _ACCESS.search(text)) is not None:
        access = Access(
            status=int(found["status"]),
            seconds=go_seconds(found["took"]) or 0.0,
            client=found["client"],
            method=found["method"],
            path=found["path"],
            line=text[found.start() :],
        )
        return text[: found.start()], access
    if (found := _PLAIN.match(text)) is not None:
        return "", Entry(level=found[1] or "INFO", msg=found[2], line=text)
    return "", None


def _plain(value: str) -> str:
    """Without Go's quotes and escapes."""
    if not value.startswith('"'):
        return value
    return _ESCAPE.sub(_unescape, value[1:-1])


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)
