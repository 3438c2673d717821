"""A text to read: a log, a transcript, a part of a case."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec

CHUNK = 12 << 20  # the larger, the fewer lines are kept only to be let go again
_GZIP = b"\x1f\x8b"


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``path`` the file is read in pieces, unpacked where it is gzip'd; else ``data`` is the text."""

    kind: str
    name: str
    data: bytes = b""
    path: Path | None = None

    def chunks(self) -> Iterator[bytes]:
        """The text in pieces of a bounded size, which end anywhere. Raises OSError or EOFError where the
        file can't be read to its end."""
        if self.path is None:
            for start in range(0, len(self.data), CHUNK):
                yield self.data[start : start + CHUNK]
            return
        with self.path.open("rb") as file:
            packed = file.read(2) == _GZIP if file.seekable() else False
            if file.seekable():
                file.seek(0)
            if packed:
                with gzip.open(file) as unpacked:
                    while piece := unpacked.read(CHUNK):
                        yield piece
            else:
                while piece := file.read(CHUNK):
                    yield piece


class Decoder:
    """Bytes of any encoding to UTF-8: UTF-16 is known by its mark, or by the zeros between its letters."""

    def __init__(self) -> None:
        self._begun = False
        self._wide: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> bytes:
        """The same text in UTF-8, without a byte-order mark; what is no text stays as it is."""
        if not self._begun and data:
            self._begun = True
            if (name := _wide(data)) is not None:
                self._wide = codecs.getincrementaldecoder(name)("replace")
            elif data.startswith(codecs.BOM_UTF8):
                return data[len(codecs.BOM_UTF8) :]
        if self._wide is None:
            return data
        return self._wide.decode(data).encode("utf-8", "replace")


def _wide(data: bytes) -> str | None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = data[:400]
    if len(sample) < 8 or b"\0" not in sample:
        return None
    odd, even = sample[1::2].count(0), sample[::2].count(0)
    if odd > 0.4 * len(sample) and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * len(sample) and odd == 0 else None
