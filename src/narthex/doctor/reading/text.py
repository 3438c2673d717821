"""A text to read: a log, a transcript, a part of a case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

CHUNK = 4 << 20


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``path`` the file is read in pieces; else ``data`` is the text."""

    kind: str
    name: str
    data: bytes = b""
    path: Path | None = None

    def chunks(self) -> Iterator[bytes]:
        """The text in pieces that end with a line."""
        if self.path is None:
            yield self.data
            return
        rest = b""
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK):
                whole, newline, end = (rest + piece).rpartition(b"\n")
                rest = end
                if whole or newline:
                    yield whole + newline
        if rest:
            yield rest
