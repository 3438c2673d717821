"""``--logs FILE…``: texts from files, of which nobody said what they are."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from narthex.doctor.reading.kinds import kind_of_text
from narthex.doctor.reading.text import Decoder, Text
from narthex.errors import UsageError
from narthex.units import format_size

_PART = 64 << 10
_MOST = 512 << 20  # bytes of what has to be held in memory: a pipe, a case
_BINARY = 0.1  # of a sample's bytes that no text has
_STDIN = "-"
_MAGICS = {
    b"GGUF": "a model",
    b"\x7fELF": "a program",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"SQLite format 3": "a database",
}


def read_files(paths: Iterable[str | Path], stdin: BinaryIO | None = None) -> list[Text]:
    """A text of each, with its kind; ``-`` is what comes on stdin. A file given twice is read once. Raises
    UsageError where one can't be read or is no text."""
    texts: dict[str, Text] = {}
    for path in paths:
        name = str(path)
        if name not in texts:
            texts[name] = _from_stdin(stdin) if name == _STDIN else _from_file(Path(name))
    return list(texts.values())


def _from_stdin(stdin: BinaryIO | None) -> Text:
    data = all_of(stdin or sys.stdin.buffer, "standard input")
    return Text(kind=kind_of_text(_parts(_whole(data))), name=_STDIN, data=data)


def _from_file(path: Path) -> Text:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a folder.", hint="Name the log files in it.")
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):  # /dev/zero has no end
            raise UsageError(f"{path} is a device, and no log.", hint="Name log files, or - for a pipe.")
        if not stat.S_ISREG(mode):
            with path.open("rb") as file:  # a pipe, as <(journalctl …) makes it, can be read only once
                data = all_of(file, str(path))
            return Text(kind=kind_of_text(_parts(_whole(data)), path.name), name=str(path), data=data)
        parts = _sample(path)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    _must_be_text(path, parts)
    return Text(kind=kind_of_text(_parts(parts), path.name), name=str(path), path=path)


def all_of(file: BinaryIO, name: str) -> bytes:
    """What comes until its end. Raises UsageError where that is more than memory is given to."""
    data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise UsageError(
            f"{name} is larger than {format_size(_MOST)}.",
            hint="Give the end of it: tail -c 200M. A log file of any size can be named behind --logs.",
        )
    return data


def _sample(path: Path) -> list[bytes]:
    """The beginning, and of a file that can be entered anywhere something from its middle."""
    with path.open("rb") as file:
        head = file.read(_PART)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                return [unpacked.read(_PART)]
        size = file.seek(0, os.SEEK_END)
        if size <= 2 * _PART:
            file.seek(0)
            return [file.read()]
        file.seek(size // 4 * 2)  # of UTF-16 the beginning of a letter
        middle = file.read(_PART)
        return [head, (b"\xff\xfe" if head.startswith(b"\xff\xfe") else b"") + middle]


def _whole(data: bytes) -> list[bytes]:
    half = len(data) // 2
    return [data] if len(data) <= 2 * _PART else [data[:_PART], data[half : half + _PART]]


def _parts(sample: Iterable[bytes]) -> list[str]:
    return [Decoder().feed(part).decode("utf-8", "replace") for part in sample]


def _must_be_text(path: Path, parts: Iterable[bytes]) -> None:
    for part in parts:
        what = next((name for magic, name in _MAGICS.items() if part.startswith(magic)), None)
        text = Decoder().feed(part)
        odd = sum(text.count(byte) for byte in (*range(7), *range(14, 27), 28, 29, 30, 31))
        if what is not None or odd > _BINARY * max(len(text), 1):
            raise UsageError(
                f"{path} is {what or 'not a text'}.",
                hint="Give logs as text (a .gz of one is read, too), or a case file with --evidence.",
            )
        break


def _unreadable(path: Path, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path} does not exist.", hint="Check the name; a shell pattern needs a match.")
    if isinstance(error, PermissionError):
        return UsageError(
            f"{path} may not be read by this user.",
            hint="Read it as a user who may, and pipe it: sudo cat FILE | narthex doctor --logs -",
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"{path} can't be read: {reason}.", hint="Give a text file, or a .gz of one.")
