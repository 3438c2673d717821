"""``collect_host``: the machine at this moment, in one record."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from pathlib import Path

from narthex.host import limits
from narthex.host.facts import GpuFacts, HostFacts
from narthex.host.gpu import read_gpus
from narthex.units import GIB


def collect_host(processes: bool = True) -> HostFacts:
    """Read everything now. ``processes=False`` leaves out the tenants of the cards.

    Cores and memory are what this process may use: CPU affinity and cgroup limits count.
    """
    gpus, gaps, driver = read_gpus(processes)
    physical = limits.physical_cores()
    if physical is None:
        gaps = (*gaps, "Cores: the kernel does not tell which CPUs share a core.")
    total, available = read_memory()
    model = cpu_model()
    return HostFacts(
        hostname=socket.gethostname(),
        os=f"{_distribution()}, {platform.system()} {platform.release()}",
        cpu_model=model,
        physical_cores=physical,
        logical_cores=limits.logical_cores(),
        load_1m=load_1m(),
        ram_total_bytes=total,
        ram_available_bytes=available,
        driver=driver,
        gpus=gpus,
        gaps=gaps,
        key=host_key(model, physical, total, gpus, driver),
    )


def host_key(
    model: str | None,
    physical_cores: int | None,
    ram_bytes: int,
    gpus: tuple[GpuFacts, ...],
    driver: str | None,
) -> str:
    """A hash of what does not change while the machine runs. Memory counts to the quarter of a GiB, since
    a new kernel reserves a little more or less."""
    cards = [(gpu.name, gpu.uuid) for gpu in gpus]
    parts = (model, physical_cores, round(ram_bytes / GIB * 4), cards, driver)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_memory() -> tuple[int, int]:
    """(total, available) bytes of main memory, within the cgroup's limit. (0, 0) where nothing tells."""
    rows = {name: int(rest.split()[0]) * 1024 for name, rest in _rows(Path("/proc/meminfo")) if rest}
    total, available = rows.get("MemTotal", 0), rows.get("MemAvailable", rows.get("MemFree", 0))
    room = limits.memory_limit()
    if room is None:
        return total, available
    limit, free = room
    return min(total, limit), min(available, free)


def cpu_model() -> str | None:
    """The processor's name."""
    names = ("model name", "Hardware", "cpu model", "Model")
    rows = dict(_rows(Path("/proc/cpuinfo")))
    return next((rows[name] for name in names if rows.get(name)), platform.processor() or None)


def load_1m() -> float | None:
    """Processes that ran or wanted to, averaged over a minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return "unknown distribution"


def _rows(path: Path) -> list[tuple[str, str]]:
    """«name: value» lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
