"""What of the machine this process may use: cores by affinity and quota, memory by its cgroup."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # cgroup v1 writes a huge number where there is none


def usable_cpus() -> frozenset[int]:
    """The logical CPUs that the scheduler may put this process on."""
    return frozenset(os.sched_getaffinity(0))


def physical_cores(cpus: frozenset[int] | None = None) -> int | None:
    """Physical cores among ``cpus`` (default: the usable ones), cut to the cgroup's CPU quota.

    Two hyper-threads of a core count once: more compute threads than cores make an engine slower, and with
    spinning threads slower by a hundred times. None where the kernel doesn't tell the topology.
    """
    cores = {_core(cpu) for cpu in (usable_cpus() if cpus is None else cpus)}
    if None in cores or not cores:
        return None
    quota = cpu_quota()
    return len(cores) if quota is None else max(1, min(len(cores), int(quota)))


def logical_cores() -> int:
    """Usable logical CPUs, cut to the cgroup's CPU quota."""
    quota = cpu_quota()
    count = len(usable_cpus())
    return count if quota is None else max(1, min(count, int(quota)))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the cgroup grants; None without a limit. A folder above may be stricter."""
    quotas = [quota for folder in cgroup_folders("cpu") if (quota := quota_of(folder)) is not None]
    return min(quotas) if quotas else None


def memory_limit() -> tuple[int, int] | None:
    """(limit, still free below it) in bytes of the strictest memory cgroup; None without a limit.

    Page cache that can be dropped at once (``inactive_file``) counts as free, as in the kernel's own
    ``MemAvailable``.
    """
    found = [room for folder in cgroup_folders("memory") if (room := room_of(folder)) is not None]
    return min(found, key=lambda room: room[1]) if found else None


def memory_ceiling(pid: int) -> int | None:
    """Bytes that the strictest memory cgroup of a process grants it; None without a limit, or unseen."""
    rooms = (room_of(folder) for folder in cgroup_folders("memory", pid=pid))
    return min((room[0] for room in rooms if room is not None), default=None)


def cgroup_folders(controller: str, root: Path = CGROUPS, pid: int | None = None) -> tuple[Path, ...]:
    """A process's folders for a controller, its own first, then those above it; without ``pid`` this
    process's. Versions 1 and 2."""
    try:
        rows = Path(f"/proc/{pid or 'self'}/cgroup").read_text().splitlines()
    except OSError:
        return ()
    folders: list[Path] = []
    for row in rows:
        _, names, path = row.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = root / controller if names else root
        own = base / path.lstrip("/")
        above = [folder for folder in own.parents if folder.is_relative_to(base)]
        folders += [folder for folder in (own, *above) if folder.is_dir()]
    return tuple(dict.fromkeys(folders))


def _core(cpu: int) -> tuple[str, str] | None:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        package = (topology / "physical_package_id").read_text().strip()
        return package, (topology / "core_id").read_text().strip()
    except OSError:
        return None


def quota_of(folder: Path) -> float | None:
    words = _words(folder / "cpu.max") or (
        _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    )
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def room_of(folder: Path) -> tuple[int, int] | None:
    limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
    used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
    if not limit or not used or limit[0] == "max" or int(limit[0]) > _NO_LIMIT:
        return None
    free = int(limit[0]) - int(used[0]) + _droppable(folder)
    return int(limit[0]), max(0, min(free, int(limit[0])))


def _droppable(folder: Path) -> int:
    words = _words(folder / "memory.stat")
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    return int(pairs.get("total_inactive_file") or pairs.get("inactive_file") or 0)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
