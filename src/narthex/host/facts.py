"""What the machine is and holds at one moment. Unknown is ``None`` with a gap that tells why."""

from __future__ import annotations

import msgspec


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant of the card."""

    pid: int
    name: str | None
    vram_bytes: int | None


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as NVML tells it, at one moment."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    used_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    bandwidth_bytes_s: float | None = None  # bus width × memory clock × 2: the roofline's ceiling


class CardsBefore(msgspec.Struct, frozen=True, kw_only=True):
    """The cards just before an engine started: what was in use on each, and by which processes."""

    used_bytes: tuple[int, ...]
    pids: frozenset[int]


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment."""

    hostname: str
    os: str
    cpu_model: str | None
    physical_cores: int | None
    logical_cores: int | None
    load_1m: float | None
    ram_total_bytes: int
    ram_available_bytes: int
    driver: str | None
    gpus: tuple[GpuFacts, ...]
    gaps: tuple[str, ...]  # «GPUs: NVML is not installed (libnvidia-ml.so.1 not found)»
    key: str  # a hash of what does not change while it runs: CPU, cores, RAM, GPUs, driver

    def within(self, memory_bytes: int | None) -> HostFacts:
        """The machine as a program sees it that may use so many bytes of main memory; None for all of it."""
        if memory_bytes is None:
            return self
        return msgspec.structs.replace(
            self,
            ram_total_bytes=min(self.ram_total_bytes, memory_bytes),
            ram_available_bytes=min(self.ram_available_bytes, memory_bytes),
        )
