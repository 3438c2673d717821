"""How a Go program writes things: durations, times, quoted words, sizes, JSON.

Ollama is one, and narthex reads what it writes. Sources: the recordings of a real server.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

NS = 1_000_000_000
FOREVER_NS = 2**63 - 1  # the largest time.Duration: 2562047h47m16.854775807s

_PART = re.compile(r"(\d*\.?\d+|\d+\.)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": NS, "m": 60 * NS, "h": 3600 * NS}
_PLAIN = re.compile(r'[^\s="\\\x00-\x20\x7f]+')


class GoError(Exception):
    """A value that Go refuses, with Go's words."""


def duration(ns: int) -> str:
    """``1.098s``, ``73.428µs``, ``5m0s``."""
    if ns < 0:
        return "-" + duration(-ns)
    if ns < 1_000:
        return f"{ns}ns" if ns else "0s"
    for unit, size in (("µs", 1_000), ("ms", 1_000_000)):
        if ns < size * 1_000:
            return _decimal(ns, size) + unit
    hours, rest = divmod(ns, 3600 * NS)
    minutes, rest = divmod(rest, 60 * NS)
    text = f"{hours}h" if hours else ""
    return text + (f"{minutes}m" if hours or minutes else "") + _decimal(rest, NS) + "s"


def access_duration(ns: int) -> str:
    """As gin writes it: whole seconds above a minute."""
    return duration(ns - ns % NS if ns > 60 * NS else ns)


def parse_duration(text: str) -> int:
    """Nanoseconds of ``10m`` or ``1h30m``. Raises GoError with Go's words."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    if not rest or not re.match(r"[\d.]", rest):
        raise GoError(f'time: invalid duration "{text}"')
    total, at = 0.0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            bare = re.match(r"[\d.]+(.*)", rest[at:])
            unit = re.match(r"[^\d.]*", bare[1]) if bare else None
            if bare and not bare[1]:
                raise GoError(f'time: missing unit in duration "{text}"')
            if unit and unit[0]:
                raise GoError(f'time: unknown unit "{unit[0]}" in duration "{text}"')
            raise GoError(f'time: invalid duration "{text}"')
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return sign * round(total)


def _decimal(ns: int, size: int) -> str:
    whole, rest = divmod(ns, size)
    digits = f"{rest:0{len(str(size)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def timestamp(ns: int | None = None) -> str:
    """RFC 3339 with up to nine digits, UTC: ``2026-11-22T11:19:21.857317116Z``."""
    ns = time.time_ns() if ns is None else ns
    seconds, rest = divmod(ns, NS)
    digits = f"{rest:09d}".rstrip("0")
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def quoted(text: str) -> str:
    """A value in a log line: quoted where it needs to be."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def binary_size(size: float) -> str:
    """``23.5 GiB``, ``512.0 MiB``, ``0 B``."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{int(size)} B"


def count(number: int) -> str:
    """``268.10M``, ``8.0B``: a number of parameters."""
    for unit, scale in (("T", 10**12), ("B", 10**9)):
        if number >= scale:
            return f"{number / scale:.1f}{unit}"
    if number >= 10**6:
        return f"{number / 10**6:.2f}M"
    return f"{number // 1000}K" if number >= 1000 else str(number)


def dumps(value: Any) -> str:
    """JSON as Go's encoder writes it: no blanks, ``<``, ``>`` and ``&`` escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def json_words(text: str, error: ValueError) -> str:
    """What Go's decoder says about a text that Python's refused, too."""
    at = getattr(error, "pos", 0)
    if at >= len(text.rstrip()):
        return "unexpected EOF"
    where = "object key string" if text[:at].rstrip().endswith("{") else "value"
    return f"invalid character '{text[at]}' looking for beginning of {where}"
