"""What NVIDIA's management library (NVML) tells about the cards, through one wrapper.

Every single reading may be missing on some card or driver: then it is ``None``, never zero, and the name of
what is missing goes to the gaps once.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from narthex.host.facts import GpuFacts, GpuProcess

# nvmlClocksThrottleReasons bits that slow the card down against its will (not idle, not user settings).
THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
VRAM_BACK_S = 5.0
# Codes of failures that will not pass: not supported, no permission, function not found in the driver.
_LASTING = {3, 4, 13}


class Nvml:
    """The library, open. Use :func:`open_nvml`; every call goes through :meth:`ask`."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.missing: dict[str, str] = {}  # reading → why, told once

    def ask(self, name: str, *arguments: Any) -> Any:
        """One NVML call by its name; None where this card or driver does not tell."""
        if name in self.missing:
            return None
        try:
            return getattr(self._library, name)(*arguments)
        except AttributeError:
            self.missing[name] = "not known to this nvidia-ml-py"
        except self._library.NVMLError as error:
            if error.value in _LASTING:
                self.missing[name] = str(error)
        return None

    def devices(self) -> list[Any]:
        """The handles of all cards."""
        count = self.ask("nvmlDeviceGetCount") or 0
        handles = (self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count))
        return [handle for handle in handles if handle is not None]

    def gaps(self) -> tuple[str, ...]:
        """One sentence for each reading that is missing."""
        return tuple(f"GPU: {name} is not available ({why})." for name, why in sorted(self.missing.items()))


@lru_cache(maxsize=1)
def open_nvml() -> tuple[Nvml | None, str | None]:
    """The library and, where it can't be used, the reason. Opened once a process."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML can't be used ({error})"
    return Nvml(pynvml), None


def read_gpus(processes: bool = True) -> tuple[tuple[GpuFacts, ...], tuple[str, ...], str | None]:
    """Every NVIDIA card now, the gaps, and the driver's version. Other vendors' cards are not seen."""
    nvml, why = open_nvml()
    if nvml is None:
        return (), (f"GPUs: {why}.",), None
    cards = tuple(read_gpu(nvml, index, handle, processes) for index, handle in enumerate(nvml.devices()))
    gaps = nvml.gaps() if cards else ("GPUs: NVML works and lists no card.", *nvml.gaps())
    return cards, gaps, _text(nvml.ask("nvmlSystemGetDriverVersion"))


def read_gpu(nvml: Nvml, index: int, handle: Any, processes: bool = True) -> GpuFacts:
    """One card now."""
    memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle)
    return GpuFacts(
        index=index,
        uuid=_text(nvml.ask("nvmlDeviceGetUUID", handle)) or f"card {index}",
        name=_text(nvml.ask("nvmlDeviceGetName", handle)) or "unknown card",
        total_bytes=memory.total if memory else 0,
        free_bytes=memory.free if memory else 0,
        used_bytes=memory.used if memory else 0,
        processes=read_processes(nvml, handle) if processes else (),
        temperature_c=nvml.ask("nvmlDeviceGetTemperature", handle, 0),
        sm_clock_mhz=nvml.ask("nvmlDeviceGetClockInfo", handle, 1),
        memory_clock_mhz=nvml.ask("nvmlDeviceGetClockInfo", handle, 2),
        power_w=_thousandth(nvml.ask("nvmlDeviceGetPowerUsage", handle)),
        power_limit_w=_thousandth(nvml.ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
        throttle_reasons=read_throttle(nvml, handle),
        bandwidth_bytes_s=bandwidth(
            nvml.ask("nvmlDeviceGetMemoryBusWidth", handle), nvml.ask("nvmlDeviceGetMaxClockInfo", handle, 2)
        ),
    )


def read_processes(nvml: Nvml, handle: Any) -> tuple[GpuProcess, ...]:
    """The tenants of a card, compute and graphics, the largest first.

    In a container the driver may give process ids of the host, or none at all.
    """
    found: dict[int, int | None] = {}
    for kind in ("Compute", "Graphics"):
        for row in nvml.ask(f"nvmlDeviceGet{kind}RunningProcesses", handle) or ():
            found[row.pid] = max(found.get(row.pid) or 0, row.usedGpuMemory or 0) or None
    tenants = (
        GpuProcess(pid=pid, name=_process_name(nvml, pid), vram_bytes=used) for pid, used in found.items()
    )
    return tuple(sorted(tenants, key=lambda tenant: (-(tenant.vram_bytes or 0), tenant.pid)))


def read_throttle(nvml: Nvml, handle: Any) -> tuple[str, ...]:
    """Why the card runs slower than it could, in words; empty when it does not."""
    bits = nvml.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # the name before driver 535
        bits = nvml.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return tuple(words for bit, words in THROTTLE_REASONS.items() if (bits or 0) & bit)


def bandwidth(bus_bits: int | None, clock_mhz: int | None) -> float | None:
    """Bytes a second between the card and its memory: bus width × memory clock × 2 (both clock edges) / 8.

    Gives the vendors' figures: 160 bit at 9001 MHz is 360 GB/s (RTX 4000 Ada), 5120 bit at 2619 MHz is
    3352 GB/s (H100 SXM).
    """
    return bus_bits / 8 * clock_mhz * 1e6 * 2 if bus_bits and clock_mhz else None


class VramReturn:
    """Asks whether a process's GPU memory came back after it ended. Make it while the process lives."""

    def __init__(self, pid: int, expected_bytes: int) -> None:
        """``expected_bytes``: what the engine's log says it holds on GPUs, for drivers that don't tell."""
        self._nvml, _ = open_nvml()
        self._pid = pid
        self._used = self._card_bytes()
        self._held = self._process_bytes() or expected_bytes

    def is_back(self, seconds: float = VRAM_BACK_S) -> bool | None:
        """True once the process holds nothing and nine tenths of it are free again; None without a GPU.

        Waits up to ``seconds``: the driver frees the memory a moment after the process is gone.
        """
        if self._used is None:
            return None
        until = time.monotonic() + seconds
        while True:
            used = self._card_bytes()
            freed = self._used - used if used is not None else 0
            if not self._process_bytes() and freed >= 0.9 * self._held:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.05)

    def _card_bytes(self) -> int | None:
        if self._nvml is None:
            return None
        readings = (self._nvml.ask("nvmlDeviceGetMemoryInfo", handle) for handle in self._nvml.devices())
        used = [memory.used for memory in readings if memory is not None]
        return sum(used) if used else None

    def _process_bytes(self) -> int:
        return process_vram(self._nvml, {self._pid}) or 0 if self._nvml is not None else 0


def process_vram(nvml: Nvml, pids: set[int]) -> int | None:
    """Bytes that these processes hold on all cards; None where the driver doesn't list them."""
    used = [
        row.usedGpuMemory
        for handle in nvml.devices()
        for row in nvml.ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()
        if row.pid in pids and row.usedGpuMemory is not None
    ]
    return sum(used) if used else None


def _process_name(nvml: Nvml, pid: int) -> str | None:
    told = _text(nvml.ask("nvmlSystemGetProcessName", pid))
    if told:
        return told.split()[0].rpartition("/")[2]
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def _text(value: Any) -> str | None:
    """Old versions of the bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _thousandth(value: int | None) -> float | None:
    return value / 1000 if value is not None else None
