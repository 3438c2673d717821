"""Tells a load that is slow from one that stands still."""

from __future__ import annotations

import time

from narthex.host.processes import work_done

LOOK_S = 0.5
QUIET = 25.0
"""Units of work a second (``work_done``: CPU ticks, pages, blocks read) that mean nothing: a server that
hangs still answers those who ask whether it is ready. A load does hundreds and more."""


class Pace:
    """Whether one process has worked since it was last asked."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._work = self._at = 0.0

    def moved(self, pid: int, now: float) -> bool:
        """True for a process that was not seen before. Asked again too soon, it says False."""
        if pid != self._pid:
            self._pid, self._work, self._at = pid, work_done(pid), now
            return True
        if now - self._at < LOOK_S:
            return False
        work, before, since = work_done(pid), self._work, self._at
        self._work, self._at = work, now
        return work - before > QUIET * (now - since)


class StallWatch:
    """No output and no work of the process for ``limit_s`` seconds is a stall."""

    def __init__(self, pid: int, limit_s: float) -> None:
        self.pid = pid
        self.limit_s = limit_s
        self._pace = Pace()
        self._moved_at = time.monotonic()

    def stalled(self, last_output_at: float) -> bool:
        """Whether it stands still. Looks at /proc at most twice a second."""
        now = time.monotonic()
        if self._pace.moved(self.pid, now):
            self._moved_at = now
        return now - max(self._moved_at, last_output_at) > self.limit_s
