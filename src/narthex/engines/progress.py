"""Whether a process gets anywhere: CPU time and disk traffic, from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path


def work_done(pid: int) -> int:
    """A number that grows while the process works: CPU ticks, bytes read and pages faulted in.

    0 once the process is gone, or where /proc tells nothing.
    """
    try:
        # The name may hold spaces and brackets: the fields begin after the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    minor, major, user, system = (int(fields[index]) for index in (7, 9, 11, 12))
    return user + system + minor + major + _bytes_read(pid) // 4096


def _bytes_read(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("rchar", "read_bytes")))


def cpu_seconds(pid: int) -> float | None:
    """CPU time that the process has used, in seconds; None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class StallWatch:
    """Tells a load that is slow from one that stands still: no output and no work for ``limit_s``."""

    def __init__(self, pid: int, limit_s: float) -> None:
        self.pid = pid
        self.limit_s = limit_s
        self._work = -1
        self._moved_at = time.monotonic()
        self._looked_at = 0.0

    def stalled(self, last_output_at: float) -> bool:
        """Looks at /proc at most twice a second."""
        now = time.monotonic()
        if now - self._looked_at >= 0.5:
            self._looked_at = now
            work = work_done(self.pid)
            if work != self._work:
                self._work, self._moved_at = work, now
        return now - max(self._moved_at, last_output_at) > self.limit_s
