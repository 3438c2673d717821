"""Ollama's log, wherever it goes: a file, the systemd journal, a container's output. Read from a mark on.

At INFO an Ollama tells nothing of an unload or a reload, so what a load wrote is told from the rest only by
the moment: take a mark, load, read what came since.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from narthex.engines.ollama import docker as containers
from narthex.engines.ollama.records import Server

START = 'msg="server config"'  # the first line of every start, since 0.1.3x
TAIL_LINES = 20_000
TAIL_BYTES = 8 << 20
HEAD_S = 60  # a start says what it found within this time
_HEAD_BYTES = 1 << 20
_SEEN_BYTES = 256  # remembered before a mark, to see whether a file was written anew
_COMMAND_S = 30
_CURSOR = "-- cursor: "
_STAMP = re.compile(r"(\S+?)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)$")


class LogSource(Protocol):
    """Where a server's log can be read. A reading that fails gives no lines; ``problem`` then says why."""

    words: str  # «the journal of ollama.service»
    problem: str  # of the last reading, "" where it went well

    def mark(self) -> Any:
        """A place behind the newest line."""
        ...

    def since(self, mark: Any) -> list[str]:
        """The lines that came after the mark."""
        ...

    def start(self) -> list[str]:
        """The lines since the server's last start: all of them, or the first and the newest of a long log."""
        ...


def open_log(server: Server) -> LogSource | None:
    """The log that ``server.log`` names; None where none can be read."""
    kind, _, name = server.log.partition(":")
    if kind == "docker":
        return DockerLog(name)
    if kind in ("journal", "user-journal"):
        return JournalLog(name, user=kind == "user-journal")
    return FileLog(Path(name)) if kind == "file" else None


class FileMark(NamedTuple):
    """A place in a file: which file, how far, and what stood just before."""

    inode: int
    offset: int
    before: bytes


class FileLog:
    """A log file. Lines are found again after the file was renamed or cut short by a log rotation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words = f"the file {path}"
        self.problem = ""

    def mark(self) -> FileMark:
        """The end of the file; the start of one that is not there yet."""
        try:
            with self.path.open("rb") as file:
                end = os.fstat(file.fileno()).st_size
                return FileMark(os.fstat(file.fileno()).st_ino, end, _before(file, end))
        except OSError:
            return FileMark(0, 0, b"")

    def since(self, mark: FileMark) -> list[str]:
        """What was written since, also to a file that was renamed meanwhile."""
        self.problem = ""
        found = self._read(self.path, mark)
        if _inode(self.path) != mark.inode and (old := self._renamed(mark.inode)):
            found = self._read(old, mark) + found
        return _lines(found)

    def start(self) -> list[str]:
        """From the last start on."""
        self.problem = ""
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                first = whole.rfind(b"\n", 0, max(0, whole.rfind(START.encode()))) + 1
                if len(whole) - first <= TAIL_BYTES:
                    return _lines(whole[first:])
                tail = whole[-TAIL_BYTES:].partition(b"\n")[2]
                if START.encode() not in whole[first : first + _HEAD_BYTES]:
                    return _lines(tail)
                return _lines(whole[first : first + _HEAD_BYTES].rpartition(b"\n")[0]) + _lines(tail)
        except (OSError, ValueError) as error:  # ValueError: an empty file can't be mapped
            self.problem = "" if isinstance(error, ValueError) else f"{self.words}: {error.strerror}"
            return []

    def _read(self, path: Path, mark: FileMark) -> bytes:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                same = status.st_ino == mark.inode and status.st_size >= mark.offset
                same = same and _before(file, mark.offset) == mark.before
                file.seek(mark.offset if same else 0)
                return file.read()
        except OSError as error:
            self.problem = f"{self.words}: {error.strerror}"
            return b""

    def _renamed(self, inode: int) -> Path | None:
        """The file of the mark under its new name, in the same folder."""
        with contextlib.suppress(OSError):
            beside = self.path.parent.iterdir() if inode else ()
            return next((path for path in beside if _inode(path) == inode), None)
        return None


class JournalMark(NamedTuple):
    """A place in the journal: a cursor, or where there is none yet a moment."""

    cursor: str
    at_s: float


class JournalLog:
    """The systemd journal of one unit, read through ``journalctl``."""

    def __init__(self, unit: str, *, user: bool = False) -> None:
        self.words = f"the journal of {unit}"
        self.problem = ""
        self._command = ["journalctl", "--user-unit" if user else "--unit", unit, "--output=cat"]

    def mark(self) -> JournalMark:
        """Behind the newest entry."""
        return JournalMark(_cursor(self._read("--lines=1", "--show-cursor")), time.time())

    def since(self, mark: JournalMark) -> list[str]:
        """The entries after it."""
        if mark.cursor:
            return self._read("--quiet", f"--after-cursor={mark.cursor}")
        return self._read("--quiet", f"--since=@{int(mark.at_s)}")

    def start(self) -> list[str]:
        """From the last start on, as far as the journal shows it to this user."""
        tail = self._read("--quiet", f"--lines={TAIL_LINES}")
        return _with_head(tail, self._head)

    def _head(self) -> list[str]:
        found = self._read(f"--grep={START}", "--lines=1", "--show-cursor")
        moment = re.search(r"\bt=([0-9a-f]+)", _cursor(found))  # microseconds, part of every cursor
        if not moment:
            return []
        first = int(moment[1], 16) // 1_000_000
        return self._read("--quiet", f"--since=@{first}", f"--until=@{first + HEAD_S}")

    def _read(self, *options: str) -> list[str]:
        self.problem = ""
        try:
            run = subprocess.run(
                [*self._command, "--no-pager", *options], capture_output=True, timeout=_COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.problem = f"{self.words}: {error}"
            return []
        if run.returncode:
            self.problem = f"{self.words}: {run.stderr.decode(errors='replace').strip()}"
        return _lines(run.stdout)


class DockerLog:
    """What a container wrote to its output and its errors, in the daemon's order."""

    def __init__(self, name: str) -> None:
        self.words = f"the log of container {name}"
        self.problem = ""
        self._name = name

    def mark(self) -> int:
        """The newest line's time by the daemon's clock, in nanoseconds; 0 where there is none."""
        rows = self._read(tail=1)
        return rows[-1][0] if rows else 0

    def since(self, mark: int) -> list[str]:
        """The lines after it; of a container that was made anew, all that are later."""
        rows = self._read(since=mark // 1_000_000_000) if mark else self._read()
        return [line for at, line in rows if at > mark]

    def start(self) -> list[str]:
        """From the last start on."""
        tail = [line for _, line in self._read(tail=TAIL_LINES)]
        return _with_head(tail, self._head)

    def _head(self) -> list[str]:
        try:
            first = nanoseconds(containers.started_at(self._name)) // 1_000_000_000
        except containers.NoDocker:
            return []
        # The daemon may note the time after the first line was written.
        return [line for _, line in self._read(since=first - 1, until=first + HEAD_S)] if first else []

    def _read(self, **options: int) -> list[tuple[int, str]]:
        """(time, line) of each line; one without a time belongs to the line before it."""
        self.problem = ""
        try:
            text = containers.read_logs(self._name, timestamps=True, **options)
        except containers.NoDocker as error:
            self.problem = f"{self.words}: {error}"
            return []
        rows: list[tuple[int, str]] = []
        for line in _lines(text):
            stamp, _, rest = line.partition(" ")
            at = nanoseconds(stamp)
            rows.append((at, rest) if at else (rows[-1][0] if rows else 0, line))
        return rows


def nanoseconds(stamp: str) -> int:
    """Since 1970, of an RFC 3339 time with up to nine digits behind the point; 0 where it is none."""
    found = _STAMP.match(stamp)
    if not found:
        return 0
    zone = "+00:00" if found[3] == "Z" else found[3]
    try:
        whole = datetime.fromisoformat(found[1] + zone)
    except ValueError:
        return 0
    return int(whole.timestamp()) * 1_000_000_000 + int((found[2] or "").ljust(9, "0")[:9])


def readable_journal(unit: str, *, user: bool = False) -> bool:
    """Whether the journal shows that unit's entries to this user."""
    return bool(JournalLog(unit, user=user)._read("--quiet", "--lines=1"))


def _with_head(tail: list[str], head: Callable[[], Sequence[str]]) -> list[str]:
    """From the last start on: within the tail, else what followed the start and then the tail."""
    starts = [number for number, line in enumerate(tail) if START in line]
    if starts:
        return tail[starts[-1] :]
    first = list(head())
    starts = [number for number, line in enumerate(first) if START in line]
    return first[starts[-1] :] + tail if starts else tail


def _cursor(lines: Sequence[str]) -> str:
    return next((line.removeprefix(_CURSOR) for line in reversed(lines) if line.startswith(_CURSOR)), "")


def _before(file: Any, offset: int) -> bytes:
    file.seek(max(0, offset - _SEEN_BYTES))
    return bytes(file.read(min(offset, _SEEN_BYTES)))


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _lines(raw: bytes) -> list[str]:
    return raw.decode(errors="replace").splitlines()
