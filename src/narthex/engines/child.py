"""``Child``: a program that can't outlive narthex, with its output drained and its exit code exact.

narthex starts :mod:`narthex.engines.guard`, and the guard starts the program; see there for who may die when.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from narthex.engines.output import Output

_GUARD = Path(__file__).with_name("guard.py")
_READ = 65_536
_LAST_WORDS_S = 0.2


class CannotStart(Exception):
    """The program could not be started at all; the text is the system's reason."""


class Child:
    """A running program. Leaving it as a context manager stops it.

    ``exit_code`` is None while it runs, then the exit code, negative for a signal.
    """

    def __init__(self, program: Sequence[str], *, env: Mapping[str, str] | None, log: Path | None) -> None:
        self.output = Output(log)
        self.started_at = time.monotonic()
        self.pid = 0
        self.exit_code: int | None = None
        self.killed = False  # narthex itself sent SIGKILL
        self._refused = ""
        self._guard_lives = True
        self._known = threading.Event()
        self._ended = threading.Event()
        read, write = os.pipe()
        command = [sys.executable, "-I", "-S", str(_GUARD), str(write), *program]
        try:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=write,
                pass_fds=(write,),
                env=dict(env) if env is not None else None,
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._thread = threading.Thread(target=self._drain, args=(read,), name="engine-output", daemon=True)
        self._thread.start()
        self._known.wait()
        if not self.pid:
            self._leave()
            raise CannotStart(self._refused or "the guard process ended")

    def alive(self) -> bool:
        """Whether the program still runs."""
        return not self._ended.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until it ended or the time is up; True when it ended."""
        return self._ended.wait(seconds)

    def end(self, gentle_s: float = 10.0) -> bool:
        """SIGTERM, then SIGKILL after ``gentle_s`` seconds. True when it ended without SIGKILL."""
        self._send(b"T")
        if not self._ended.wait(gentle_s):
            self.kill()
        self._leave()
        return not self.killed

    def kill(self) -> None:
        """SIGKILL to the whole group, now."""
        if self.alive():
            self.killed = True
            self._send(b"K")
            self._ended.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def _send(self, letter: bytes) -> None:
        assert self._guard.stdin is not None
        if self.alive():
            with contextlib.suppress(OSError):  # it ended in this moment
                self._guard.stdin.write(letter)
                self._guard.stdin.flush()

    def _leave(self) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait()
        self._thread.join()

    def _drain(self, read: int) -> None:
        """Move the program's output to the record and listen to the guard, until both are silent."""
        assert self._guard.stdout is not None
        said = self._guard.stdout.fileno()
        words = b""
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            selector.register(said, selectors.EVENT_READ)
            # A helper that left the group may hold the output open for ever: once the guard is gone, what
            # is there is read, and no more is waited for.
            while selector.get_map():
                ready = selector.select(None if self._guard_lives else _LAST_WORDS_S)
                if not ready:
                    break
                for key, _ in ready:
                    data = os.read(key.fd, _READ)
                    if not data:
                        selector.unregister(key.fd)
                        if key.fd == said:
                            self._guard_is_gone()
                    elif key.fd == read:
                        self.output.feed(data)
                    else:
                        *lines, words = (words + data).split(b"\n")
                        for line in lines:
                            self._hear(line.decode("utf-8", "replace"))
        os.close(read)
        self._guard.stdout.close()
        self.output.close()
        self._known.set()
        self._ended.set()

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "started":
            self.started_at = time.monotonic()
            self.pid = int(rest)
            self._known.set()
        elif word == "refused":
            self._refused = rest
            self._known.set()
        elif word == "ended":
            self.exit_code = int(rest)

    def _guard_is_gone(self) -> None:
        """A guard that ended without a word was killed, and the kernel killed the program with it."""
        self._guard_lives = False
        if self.exit_code is None and self.pid:
            self.exit_code = -signal.SIGKILL
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
