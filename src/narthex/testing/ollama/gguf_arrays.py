"""The arrays of a GGUF file's metadata at full length: a vocabulary, its scores, its types."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

_STRING, _ARRAY = 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_arrays(path: Path) -> dict[str, list[Any]]:
    """By key. For a file that was read before: nothing is checked."""
    found: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        _, _, keys = _take(file, "IQQ", skip=4)
        for _ in range(keys):
            key = _text(file)
            (kind,) = _take(file, "I")
            if kind == _ARRAY:
                found[key] = _array(file)
            elif kind == _STRING:
                _text(file)
            else:
                _take(file, _FORMS[kind])
    return found


def _array(file: BinaryIO) -> list[Any]:
    kind, length = _take(file, "IQ")
    if kind == _STRING:
        return [_text(file) for _ in range(length)]
    return list(_take(file, f"{length}{_FORMS[kind]}"))


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode("utf-8", "replace")


def _take(file: BinaryIO, form: str, *, skip: int = 0) -> tuple[Any, ...]:
    file.read(skip)
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
