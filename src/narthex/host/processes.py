"""Processes as /proc shows them: CPU time, memory, children, how they were started.

Zero, None and nothing once a process is gone, or where this user may not look.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def pids() -> list[int]:
    """Every process that can be seen."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


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


def command_line(pid: int) -> list[str]:
    """The process's arguments, the program first."""
    return _records(PROC / str(pid) / "cmdline")


def environment(pid: int) -> dict[str, str]:
    """The variables that the process was started with: only the own user's processes and root show them."""
    rows = (record.partition("=") for record in _records(PROC / str(pid) / "environ"))
    return {name: value for name, equals, value in rows if equals}


def name_of(pid: int) -> str:
    """The kernel's name of the process, 15 characters."""
    return read_text(PROC / str(pid) / "comm").strip()


def user_id(pid: int) -> int | None:
    """Of the user that the process runs as."""
    rows = read_text(PROC / str(pid) / "status").splitlines()
    row = next((row for row in rows if row.startswith("Uid:")), None)
    return int(row.split()[1]) if row else None


def parent_of(pid: int) -> int:
    """The process that started it; 0 where there is none."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def start_ticks(pid: int) -> int:
    """When the process was started, in clock ticks since the machine was booted."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def started_s(pid: int) -> float | None:
    """When the process was started, in seconds since 1970."""
    rows = dict(row.split(maxsplit=1) for row in read_text(PROC / "stat").splitlines())
    ticks = start_ticks(pid)
    return int(rows["btime"]) + ticks / TICKS if ticks and "btime" in rows else None


def open_files(pid: int) -> set[str]:
    """What the process holds open: paths, ``socket:[123]``. One that is closed while we look is left out."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def read_text(path: Path) -> str:
    """A file of /proc, "" where it can't be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _records(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def _bytes_read(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("rchar", "read_bytes")))
