"""Tells a load that is slow from one that stands still."""

from __future__ import annotations

import time

from narthex.host.processes import work_done

LOOK_S = 0.5


class StallWatch:
    """No output and no work of the process for ``limit_s`` seconds is a stall."""

    def __init__(self, pid: int, limit_s: float) -> None:
        self.pid = pid
        self.limit_s = limit_s
        self._work = -1
        self._moved_at = self._looked_at = time.monotonic()

    def stalled(self, last_output_at: float) -> bool:
        """Whether it stands still. Looks at /proc at most twice a second."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            work = work_done(self.pid)
            if work != self._work:
                self._work, self._moved_at = work, now
        return now - max(self._moved_at, last_output_at) > self.limit_s
