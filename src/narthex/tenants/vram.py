"""``VramWatch``: the most VRAM that a tenant's processes held, read ten times a second.

The processes are found at each reading: a program that has not computed yet is not on the card, and a job may
start others.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from narthex.host.facts import CardsBefore
from narthex.host.gpu import Nvml, engine_vram, open_nvml, read_processes
from narthex.host.processes import command_line

INTERVAL_S = 0.1

Pids = Callable[[], frozenset[int]]


class VramWatch:
    """Reads in a thread of its own between ``__enter__`` and ``__exit__``.

    ``before``: the cards before the job, where narthex starts it itself; then it is found even by a driver
    that does not know its process id.
    """

    def __init__(self, pids: Pids, before: CardsBefore | None = None) -> None:
        self.peak_bytes: int | None = None
        self._pids = pids
        self._before = before
        self._nvml, self._why_not = open_nvml()
        self._doubt: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tenant-vram", daemon=True)

    def __enter__(self) -> VramWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def gaps(self) -> tuple[str, ...]:
        """Why there is no figure, or what is doubtful about it."""
        if self._nvml is None:
            return (f"VRAM by process: {self._why_not}.",)
        if self.peak_bytes is None:
            return ("VRAM by process: the driver lists none of its processes on a card.",)
        return (self._doubt,) if self._doubt else ()

    def _run(self) -> None:
        if self._nvml is None:
            return
        while True:
            self._read(self._nvml)
            if self._stop.wait(INTERVAL_S):
                break
        self._read(self._nvml)

    def _read(self, nvml: Nvml) -> None:
        held = engine_vram(nvml, self._pids(), self._before)
        self._doubt = held.doubt or self._doubt
        if held.bytes is not None:
            self.peak_bytes = max(held.bytes, self.peak_bytes or 0)


def held_now(pids: frozenset[int]) -> int | None:
    """VRAM that these processes hold now; None without NVML, 0 where none of them is on a card."""
    nvml, _ = open_nvml()
    return None if nvml is None else engine_vram(nvml, pids, None).bytes or 0


def on_cards(*, named: str | None = None, mentions: str | None = None) -> frozenset[int]:
    """Processes on any card by their name, or by a word in their command line or folder."""
    nvml, _ = open_nvml()
    if nvml is None:
        return frozenset()
    rows = {row.pid: row.name or "" for handle in nvml.devices() for row in read_processes(nvml, handle)}
    return frozenset(
        pid
        for pid, name in rows.items()
        if (named is not None and name == named)
        or (mentions is not None and mentions in _traces(pid).casefold())
    )


def _traces(pid: int) -> str:
    folder = ""
    with contextlib.suppress(OSError):
        folder = os.readlink(f"/proc/{pid}/cwd")
    return " ".join((*command_line(pid), folder))
