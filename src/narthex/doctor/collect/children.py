"""Programs that collectors run: with a limit on time and output, and ended with the collector."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

import msgspec

_PIECE = 1 << 16
_ERRORS = 1 << 14  # of a program's complaints so much is kept


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended. ``status`` None: it was not there, or was ended here."""

    out: bytes = b""
    err: str = ""
    status: int | None = None
    missing: bool = False
    late: bool = False  # ended here after its time
    cut: bool = False  # ended here after so much output


class Children:
    """The programs of one run, each in a session of its own, so that it ends with its children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, set[subprocess.Popen[bytes]]] = {}  # by thread

    def run(
        self,
        argv: Sequence[str],
        *,
        seconds: float,
        most_bytes: int = 1 << 20,
        env: dict[str, str] | None = None,
    ) -> Ran:
        """Run a program, without a shell and without input."""
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C", **(env or {})},
            )
        except OSError as error:
            return Ran(err=str(error.strerror), missing=isinstance(error, FileNotFoundError))
        mine = threading.get_ident()
        with self._lock:
            self._running.setdefault(mine, set()).add(child)
        try:
            return _read(child, time.monotonic() + seconds, most_bytes)
        finally:
            _end(child)
            with self._lock:
                self._running[mine].discard(child)

    def end(self, thread: int | None) -> None:
        """End what a collector's thread still runs."""
        with self._lock:
            left = list(self._running.get(thread or 0, ()))
        for child in left:
            _kill(child)


def _read(child: subprocess.Popen[bytes], until: float, most_bytes: int) -> Ran:
    out, err = bytearray(), bytearray()
    cut = False
    assert child.stdout is not None
    assert child.stderr is not None
    with selectors.DefaultSelector() as open_ends:
        open_ends.register(child.stdout, selectors.EVENT_READ, out)
        open_ends.register(child.stderr, selectors.EVENT_READ, err)
        while open_ends.get_map() and not cut:
            left = until - time.monotonic()
            ready = open_ends.select(left) if left > 0 else []
            if not ready:
                return Ran(out=bytes(out), err=_words(err), late=True)
            for key, _ in ready:
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    open_ends.unregister(key.fileobj)
                elif key.data is out or len(err) < _ERRORS:
                    key.data.extend(piece)
            cut = len(out) > most_bytes
    if cut:
        return Ran(out=bytes(out[:most_bytes]), err=_words(err), cut=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(max(0.05, until - time.monotonic()))
    return Ran(out=bytes(out), err=_words(err), status=child.returncode, late=child.returncode is None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ended and its exit code taken; one that hangs in the kernel is left behind, it can't be waited for."""
    if child.poll() is None:
        _kill(child)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)


def _words(raw: bytearray) -> str:
    return raw.decode(errors="replace").strip()
