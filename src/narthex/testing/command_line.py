"""The ``narthex`` command as a person starts it: its own process, with its output, and a hand on its keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, NamedTuple

COMMAND = (sys.executable, "-m", "narthex")
PATIENCE_S = 240.0


class Said(NamedTuple):
    """How a command ended: exit code, its data, its talk."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


def narthex(*words: str, env: Mapping[str, str] | None = None) -> Said:
    """Run a command to its end."""
    with Running(*words, env=env) as running:
        return running.end()


class Running:
    """A command that runs, as a context manager: killed if it still does at the end."""

    def __init__(self, *words: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._readers = [
            threading.Thread(target=_read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self._out), (self._process.stderr, self._err))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def told(self) -> str:
        """What it has said on stderr so far."""
        return "".join(self._err)

    @property
    def printed(self) -> str:
        """What it has printed on stdout so far."""
        return "".join(self._out)

    def until(self, words: str, times: int = 1) -> None:
        """Wait until it has said these words on stderr so many times. AssertionError where it ends first."""
        deadline = time.monotonic() + PATIENCE_S
        while self.told.count(words) < times:
            ended = self._process.poll() is not None and not any(
                reader.is_alive() for reader in self._readers
            )
            assert not ended, f"it ended without «{words}»:\n{self.told}"
            assert time.monotonic() < deadline, f"it never said «{words}»:\n{self.told}"
            time.sleep(0.02)

    def interrupt(self) -> Said:
        """Ctrl-C, and what came of it."""
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def kill(self) -> None:
        """SIGKILL: it can't put anything in order."""
        self._process.kill()
        self._process.wait()

    def end(self) -> Said:
        """Wait for its end."""
        code = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join()
        return Said(code, "".join(self._out), self.told)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        for reader in self._readers:
            reader.join()


def _read(stream: IO[str] | None, lines: list[str]) -> None:
    with stream if stream is not None else open(os.devnull) as open_stream:
        lines.extend(open_stream)
