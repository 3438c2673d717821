"""Followers: each reads on in one log as it grows, in a thread of its own, tells when it vanishes, and waits.

What was written before is given first, as context; then whole lines as they come. A line that stays without
its end is given after a short while as it is: whoever dies in the middle of a line does not end it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from narthex.doctor.collect.places import LogPlace, journal_options
from narthex.engines.ollama import docker as containers
from narthex.engines.ollama.logs import nanoseconds

LOOK_S = 0.1
AGAIN_S = 1.0  # between two looks for a source that is gone
CONTEXT_BYTES = 8 << 20
CONTEXT_LINES = 5000
_UNENDED_S = 0.4  # a line without its end waits so long for the rest
_OLD_FILE_S = 10.0  # a writer goes on in a file that was renamed until it is told of the new one
_PIECE = 1 << 18
_SEEN_BYTES = 256  # remembered before the place in a file, to see whether it was written anew
_COMMAND_S = 10.0
_LEAVE_S = 2.0

Put = Callable[[bytes, bool], None]
"""Takes whole lines, and whether they are older than the watch."""
Note = Callable[[str], None]


class Follower(threading.Thread, ABC):
    """One log. ``ready`` is set once its older lines were given."""

    def __init__(self, place: LogPlace, put: Put, note: Note, stop: threading.Event) -> None:
        super().__init__(name=f"follow {place.name}", daemon=True)
        self.place = place
        self.ready = threading.Event()
        self._stop_now = stop
        self._note = note
        self._put = put
        self._rest = b""
        self._rest_at = 0.0
        self._gone = False

    def run(self) -> None:
        """Until it is stopped. What goes wrong is told."""
        try:
            self._follow()
        except Exception as error:  # the other logs are followed on
            self._note(f"{self.place.name} can't be followed any more: {type(error).__name__}: {error}")
        finally:
            self.ready.set()

    def end(self) -> None:
        """Let go what it reads from; called from another thread, after the stop was set."""

    @abstractmethod
    def _follow(self) -> None:
        """Give the older lines, set ``ready``, and read on until the stop."""

    def _take(self, data: bytes, *, old: bool = False) -> None:
        """Give whole lines; keep the rest until its end comes."""
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if self._rest:
            self._rest_at = time.monotonic()
        if newline:
            self._put(whole + newline, old)

    def _quiet(self) -> None:
        """Nothing came: a line without its end is given after a while."""
        if self._rest and time.monotonic() - self._rest_at > _UNENDED_S:
            rest, self._rest = self._rest, b""
            self._put(rest + b"\n", False)

    def _is_gone(self, why: str) -> None:
        if not self._gone:
            self._gone = True
            self._note(f"{self.place.name} is gone ({why}); it is waited for.")

    def _is_back(self) -> None:
        if self._gone:
            self._gone = False
            self._note(f"{self.place.name} is back.")


class FileFollower(Follower):
    """A file, also one that is renamed and begun anew, cut short, or not there yet."""

    def _follow(self) -> None:
        path = Path(self.place.target)
        self._file: IO[bytes] | None = None
        self._before = b""
        self._left: tuple[IO[bytes], float] | None = None  # the renamed file, and until when it is read on
        if self._open(path):
            self._give_context()
        self.ready.set()
        try:
            while not self._stop_now.wait(LOOK_S):
                if not self._step(path):
                    self._quiet()
        finally:
            for file in (self._file, self._left[0] if self._left else None):
                if file is not None:
                    file.close()

    def _give_context(self) -> None:
        assert self._file is not None
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(max(0, size - CONTEXT_BYTES))
        if size > CONTEXT_BYTES:
            self._file.readline()
        self._take(self._read(self._file, size - self._file.tell()), old=True)

    def _step(self, path: Path) -> bool:
        """Read what is new; False where nothing was."""
        found = False
        if self._left is not None:
            file, until = self._left
            if late := file.read(_PIECE):
                self._take(late)
                found = True
            elif time.monotonic() > until:
                file.close()
                self._left = None
        if self._file is not None:
            self._begin_anew_where_cut(self._file)
            while data := self._read(self._file, _PIECE):
                self._take(data)
                found = True
        if not self._is_same(path):
            self._switch(path)
        return found

    def _read(self, file: IO[bytes], most: int) -> bytes:
        data = file.read(most)
        self._before = (self._before + data)[-_SEEN_BYTES:]
        return data

    def _begin_anew_where_cut(self, file: IO[bytes]) -> None:
        """A log rotation may copy the file and cut it; then it grows from its start again."""
        place = file.tell()
        seen = os.pread(file.fileno(), len(self._before), place - len(self._before))
        if os.fstat(file.fileno()).st_size < place or seen != self._before:
            file.seek(0)
            self._before = b""

    def _is_same(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return False
        here = os.fstat(self._file.fileno()) if self._file is not None else None
        return here is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _switch(self, path: Path) -> None:
        """To the new file of that name; the old one is read on for a while."""
        old = self._file
        if not self._open(path):
            return
        if old is not None:
            if self._left is not None:
                self._left[0].close()
            self._left = (old, time.monotonic() + _OLD_FILE_S)

    def _open(self, path: Path) -> bool:
        try:
            file = path.open("rb")
        except OSError as error:
            self._is_gone(str(error.strerror or error))
            return False
        self._file, self._before = file, b""
        self._is_back()
        return True


class JournalFollower(Follower):
    """A unit's journal, or the kernel's log in it, through ``journalctl --follow``."""

    _child: subprocess.Popen[bytes] | None = None

    def _follow(self) -> None:
        cursor = self._give_context()
        self.ready.set()
        since = f"--after-cursor={cursor}" if cursor else f"--since=@{int(time.time())}"
        while not self._stop_now.is_set():
            try:
                self._read_on(since)
            except OSError as error:
                self._is_gone(str(error.strerror or error))
            since = f"--since=@{int(time.time())}"
            self._stop_now.wait(AGAIN_S)

    def end(self) -> None:
        """End the journalctl that was started here."""
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()

    def _command(self, *options: str) -> list[str]:
        chosen = journal_options(self.place)
        return ["journalctl", *chosen, "--no-pager", "--quiet", "--output=short-iso", *options]

    def _give_context(self) -> str:
        """The older entries; returns the cursor behind them."""
        try:
            run = subprocess.run(
                self._command(f"--lines={CONTEXT_LINES}", "--show-cursor"),
                capture_output=True,
                timeout=_COMMAND_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        lines = run.stdout.splitlines(keepends=True)
        cursors = [line for line in lines if line.startswith(b"-- cursor: ")]
        self._take(b"".join(line for line in lines if not line.startswith(b"-- ")), old=True)
        return cursors[-1].decode().removeprefix("-- cursor: ").strip() if cursors else ""

    def _read_on(self, since: str) -> None:
        self._child = child = subprocess.Popen(
            self._command("--follow", since),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
        assert child.stdout is not None
        try:
            for data in _pieces(child.stdout.fileno(), self._stop_now):
                if data:
                    self._is_back()
                    self._take(data)
                else:
                    self._quiet()
            if not self._stop_now.is_set():
                self._is_gone(f"journalctl ended with {child.wait()}")
        finally:
            self.end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_LEAVE_S)
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()


class DockerFollower(Follower):
    """A container's output and errors, through the Docker SDK; also of one that is started anew."""

    _stream: Any = None
    _last = 0  # time of the newest line that was given, in nanoseconds by the daemon's clock

    def _follow(self) -> None:
        self._cut = b""
        try:
            rows = containers.read_logs(self.place.target, timestamps=True, tail=CONTEXT_LINES)
            self._rows(rows, old=True)
        except containers.NoDocker as error:
            self._is_gone(str(error))
        self.ready.set()
        while not self._stop_now.is_set():
            try:
                self._read_on()
            except containers.NoDocker as error:
                self._is_gone(str(error))
            self._stop_now.wait(AGAIN_S if self._gone else LOOK_S)

    def end(self) -> None:
        """Close the stream, so that its reader wakes."""
        with contextlib.suppress(Exception):  # it may be closed already, in one of the SDK's many ways
            self._stream.close()

    def _read_on(self) -> None:
        with containers.connect() as api:
            state = api.inspect_container(self.place.target)["State"]
            if not state.get("Running"):
                self._is_gone(f"{state.get('Status')}, exit code {state.get('ExitCode')}")
            else:
                self._is_back()
            since = self._last // 1_000_000_000 or int(time.time())
            name = self.place.target
            self._stream = api.logs(name, stream=True, follow=True, timestamps=True, since=since)
            for data in self._stream:
                self._rows(data)
                if self._stop_now.is_set():
                    return

    def _rows(self, data: bytes, *, old: bool = False) -> None:
        """Lines with the daemon's time before them; those that were given already are left out."""
        whole, newline, self._cut = (self._cut + data).rpartition(b"\n")
        fresh = bytearray()
        for row in whole.split(b"\n") if newline else ():
            at = nanoseconds(row.partition(b" ")[0].decode("ascii", "replace"))
            if at == 0 or at > self._last:
                self._last = max(at, self._last)
                fresh += row + b"\n"
        self._take(bytes(fresh), old=old)


def follower(place: LogPlace, put: Put, note: Note, stop: threading.Event) -> Follower:
    """The one that can read there; not started yet."""
    kinds: dict[str, type[Follower]] = {"file": FileFollower, "docker": DockerFollower}
    return kinds.get(place.means, JournalFollower)(place, put, note, stop)


def _pieces(descriptor: int, stop: threading.Event) -> Iterator[bytes]:
    """What comes from a pipe until its end; nothing now and then, where nothing comes."""
    while not stop.is_set():
        if not select.select([descriptor], [], [], LOOK_S)[0]:
            yield b""
            continue
        data = os.read(descriptor, _PIECE)
        if not data:
            return
        yield data
