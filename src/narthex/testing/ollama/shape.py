"""Comparing two answers of Ollama: the same keys and types, the same words, other figures."""

from __future__ import annotations

import json
import re
from typing import Any

WORDS = ("done", "done_reason", "object", "finish_reason", "role", "status", "capabilities", "details")
_DIGEST = re.compile(r"sha256([:-])[0-9a-f]{64}")
_FOLDER = re.compile(r"(/[\w.\-]+)+/blobs/")
_RESOLVER = re.compile(r"lookup (\S+)( on \S+)?:")


def shape(value: Any, key: str = "") -> Any:
    """What must be the same: types and keys; the value itself for WORDS and errors."""
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in sorted(value.items())}
    if key == "error" and isinstance(value, str):
        return plain(value)
    if key in WORDS:
        return plain(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return [shape(value[0], key)] if value and isinstance(value[0], dict) else ["…"] if value else []
    if isinstance(value, bool) or value is None:
        return value
    return "number" if isinstance(value, int | float) else "text"


def lines_shape(lines: list[str]) -> list[Any]:
    """Of a stream: the first line, and the last two; what lies between repeats."""
    found = [shape(json.loads(line)) for line in lines if line.strip()]
    return found[:1] + found[-2:]


def plain(text: str) -> str:
    """Without digests, folders and the name of a resolver."""
    text = _RESOLVER.sub(r"lookup \1:", text)
    return _FOLDER.sub("/blobs/", _DIGEST.sub(r"sha256\1…", text))
