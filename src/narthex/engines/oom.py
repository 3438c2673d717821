"""How often the kernel's oom-killer has struck: the witness that tells it from somebody's SIGKILL."""

from __future__ import annotations

from pathlib import Path


def oom_kills() -> int | None:
    """Processes that the kernel's oom-killer ended on this machine since it started, cgroup limits included.

    From ``/proc/vmstat`` (Linux 4.13), which counts for the whole kernel also inside a container. None where
    it does not tell.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def oom_kills_since(before: int | None) -> int | None:
    """How many since then; None where the kernel does not tell."""
    now = oom_kills()
    return now - before if now is not None and before is not None else None
