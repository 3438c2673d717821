"""What a child process says: every line kept in bounded memory and in a file, with the newest at hand."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

HEAD_LINES = 20_000  # a load prints some 300; a debug build some thousands
TAIL_LINES = 2_000
LINE_BYTES = 4_096  # longer lines are cut in memory, not in the file
FILE_BYTES = 64 * 2**20  # then the file becomes «….1» and a new one begins: the newest lines always survive


class Output:
    """A bounded record of a child's output. One thread feeds it, any thread reads it.

    ``path`` is the file; None keeps the lines in memory only, and so does a folder that can't be written to:
    a log is no reason to refuse a measurement.
    """

    def __init__(self, path: Path | None, file_bytes: int = FILE_BYTES) -> None:
        self.path = path
        self.file_bytes = file_bytes
        self._file: BinaryIO | None = None
        self._written = 0
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("wb", buffering=0)
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        self._changed = threading.Condition()
        self.count = 0  # lines seen
        self.last_at = time.monotonic()  # when something last came

    def feed(self, data: bytes) -> None:
        """Take what was read from the child."""
        self._write(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        with self._changed:
            self.last_at = time.monotonic()
            for line in lines:
                self._keep(line)
            self._changed.notify_all()

    def close(self) -> None:
        """The child's output has ended: keep an unfinished line, close the file."""
        with self._changed:
            if self._partial:
                self._keep(self._partial)
                self._partial = b""
            self._changed.notify_all()
        if self._file is not None:
            self._file.close()
            self._file = None

    def head(self) -> list[str]:
        """The first lines, as far as they are kept."""
        with self._changed:
            return list(self._head)

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The newest lines."""
        with self._changed:
            return list(self._tail)[-lines:]

    def wait(self, seen: int, seconds: float) -> int:
        """Until more than ``seen`` lines came or the time is up; returns the number of lines."""
        with self._changed:
            if self.count <= seen:
                self._changed.wait(seconds)
            return self.count

    def _keep(self, line: bytes) -> None:
        text = line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        if len(self._head) < HEAD_LINES:
            self._head.append(text)
        self._tail.append(text)
        self.count += 1

    def _write(self, data: bytes) -> None:
        if self._file is None or self.path is None:
            return
        try:
            if self._written > self.file_bytes:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("wb", buffering=0)
                self._written = 0
            self._file.write(data)
            self._written += len(data)
        except OSError:  # a full disk must not end a trial: the lines stay in memory
            self._file.close()
            self._file = None
