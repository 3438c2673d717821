"""What a run of the collectors looks at, and what they share: looked up once, whoever asks first."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from narthex.doctor.collect.children import Children

T = TypeVar("T")
NVML_CHILD = (sys.executable, "-m", "narthex.doctor.collect.nvml_child")


def open_device(path: Path) -> None:
    """Open for reading and writing and close at once. Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))


class _Shared:
    """Results of look-ups; one that is under way is waited for, one that failed fails for everybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._found: dict[str, tuple[Any, BaseException | None]] = {}

    def once(self, key: str, look: Callable[[], Any]) -> Any:
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._found:
                try:
                    self._found[key] = (look(), None)
                except Exception as error:
                    self._found[key] = (None, error)
        result, broke = self._found[key]
        if broke is not None:
            raise broke
        return result


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """``root``: where /proc, /sys, /dev and /etc are found, another folder for recorded trees. ``since``:
    seconds since 1970; logs are read from there on, None for what each collector thinks best.
    ``open_device`` and ``nvml`` (a command that prints the cards) stand for hardware that is not here."""

    root: Path = Path("/")
    since: float | None = None
    open_device: Callable[[Path], None] = open_device
    nvml: tuple[str, ...] = NVML_CHILD
    children: Children = msgspec.field(default_factory=Children)
    shared: _Shared = msgspec.field(default_factory=_Shared)

    def once(self, key: str, look: Callable[[], T]) -> T:
        """The result of ``look``, which runs once a run however many collectors ask for ``key``."""
        return cast("T", self.shared.once(key, look))

    def path(self, absolute: str) -> Path:
        """A path of this machine, within ``root``."""
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str) -> str | None:
        """A small text file of /proc, /sys or /etc; None where it can't be read."""
        try:
            return self.path(absolute).read_text(errors="replace")
        except OSError:
            return None

    def has(self, absolute: str) -> bool:
        """Whether a file or folder is there; False also where this user may not look."""
        try:
            return self.path(absolute).exists()
        except OSError:
            return False

    def names(self, absolute: str) -> list[str]:
        """What is in a folder, sorted; nothing where it can't be read."""
        try:
            return sorted(entry.name for entry in self.path(absolute).iterdir())
        except OSError:
            return []

    @property
    def is_this_machine(self) -> bool:
        """False for a recorded tree: then nothing else of this machine belongs to it."""
        return self.root == Path("/")
