"""Which line of a TOML text sets a key: tomllib does not tell, and a message without a line is no help."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADER = re.compile(r"\s*\[\[?(.+?)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w-]+))*)\s*="""
)


def line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line, counted from 1, that sets ``keys`` or the innermost table around it; else None."""
    found: dict[tuple[str, ...], int] = {}
    for number, path in _paths(text):
        found.setdefault(path, number)
    for length in range(len(keys), 0, -1):
        if keys[:length] in found:
            return found[keys[:length]]
    return None


def _paths(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[1]) or table
            yield number, table
        elif key := _KEY.match(line):
            yield number, table + _parts(key[1])


def _parts(key: str) -> tuple[str, ...]:
    """A dotted key in its parts; () where it is none, as inside a list over several lines."""
    import tomllib

    try:
        value = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts = []
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)
