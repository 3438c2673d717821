"""Processes as /proc shows them: CPU time, memory, children. Zero and None once a process is gone."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> frozenset[int]:
    """The process and all its descendants."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found |= family(int(child))
    return frozenset(found)


def runs(pid: int) -> bool:
    """Whether the process still runs; one that ended and was not yet asked for its exit code does not."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def cpu_seconds(pid: int) -> float | None:
    """CPU time that the process has used."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else None


def work_done(pid: int) -> int:
    """A number that grows while the process works: CPU ticks, pages faulted in, blocks read."""
    fields = stat_fields(pid)
    if not fields:
        return 0
    minor, major, user, system = (int(fields[index]) for index in (7, 9, 11, 12))
    return user + system + minor + major + _bytes_read(pid) // 4096


def resident_bytes(pid: int) -> int | None:
    """Main memory that the process holds, pages of mapped files included."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None


def busy_seconds() -> float | None:
    """CPU time that all processes of this machine have used together."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, hard, soft, steal = (int(field) for field in fields[:8])
    return (user + nice + system + hard + soft + steal) / TICKS


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _bytes_read(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("rchar", "read_bytes")))
