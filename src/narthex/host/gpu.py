"""What NVIDIA's management library (NVML) tells about the cards, through one wrapper.

Every single reading may be missing on some card or driver: then it is ``None``, never zero, and the name of
what is missing goes to the gaps once.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import msgspec

from narthex.host.facts import CardsBefore, GpuFacts, GpuProcess
from narthex.host.processes import name_of

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
        self._handles: list[Any] | None = None
        self._missing: dict[tuple[str, int], str] = {}  # (reading, card) → why

    def ask(self, name: str, *arguments: Any, or_else: str | None = None) -> Any:
        """One NVML call by its name; None where this card or driver does not tell.

        ``or_else`` is what older drivers call it. What a card does not support is not asked again.
        """
        key = (name, id(arguments[0]) if arguments else 0)
        if key not in self._missing:
            try:
                return getattr(self._library, name)(*arguments)
            except AttributeError:
                self._missing[key] = "not known to this nvidia-ml-py"
            except self._library.NVMLError as error:
                if error.value not in _LASTING:
                    return None
                self._missing[key] = str(error)
        if or_else is None:
            return None
        self._missing[key] = ""  # the older name tells, or has a gap of its own
        return self.ask(or_else, *arguments)

    def devices(self) -> list[Any]:
        """The handles of all cards, the same ones each time."""
        if self._handles is None:
            count = self.ask("nvmlDeviceGetCount") or 0
            handles = (self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count))
            self._handles = [handle for handle in handles if handle is not None]
        return self._handles

    def gaps(self) -> tuple[str, ...]:
        """One sentence for each reading that some card lacks."""
        found = {name: why for (name, _), why in sorted(self._missing.items()) if why}
        return tuple(f"GPU: {name} is not available ({why})." for name, why in found.items())


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
    found = _tenants(nvml, handle)
    tenants = (
        GpuProcess(pid=pid, name=_process_name(nvml, pid), vram_bytes=used) for pid, used in found.items()
    )
    return tuple(sorted(tenants, key=lambda tenant: (-(tenant.vram_bytes or 0), tenant.pid)))


def read_throttle(nvml: Nvml, handle: Any) -> tuple[str, ...]:
    """Why the card runs slower than it could, in words; empty when it does not."""
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    bits = nvml.ask(names[0], handle, or_else=names[1])  # renamed in driver 535
    return tuple(words for bit, words in THROTTLE_REASONS.items() if (bits or 0) & bit)


def bandwidth(bus_bits: int | None, clock_mhz: int | None) -> float | None:
    """Bytes a second between the card and its memory: bus width × memory clock × 2 (both clock edges) / 8.

    Gives the vendors' figures: 160 bit at 9001 MHz is 360 GB/s (RTX 4000 Ada), 5120 bit at 2619 MHz is
    3352 GB/s (H100 SXM).
    """
    return bus_bits / 8 * clock_mhz * 1e6 * 2 if bus_bits and clock_mhz else None


class VramReturn:
    """Asks whether a process's GPU memory came back after it ended. Make it while the process lives.

    ``expected_bytes`` is what the engine's log says it holds on GPUs, for drivers that list no processes and
    for a process that can't be seen (``pid`` None).
    """

    def __init__(self, pid: int | None, expected_bytes: int, nvml: Nvml | None) -> None:
        self._nvml = nvml
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
        handles = self._nvml.devices() if self._nvml is not None else []
        return sum(_used(self._nvml, handles)) if self._nvml is not None and handles else None

    def _process_bytes(self) -> int:
        if self._nvml is None or self._pid is None:
            return 0
        return engine_vram(self._nvml, frozenset({self._pid}), None).bytes or 0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine holds on the cards. ``doubt`` tells how it was found out, unless by its process id."""

    bytes: int | None
    cards: frozenset[int] = frozenset()
    doubt: str | None = None


def cards_before() -> CardsBefore | None:
    """Taken just before an engine starts; None without a card."""
    nvml, _ = open_nvml()
    handles = nvml.devices() if nvml is not None else []
    if nvml is None or not handles:
        return None
    pids = frozenset(pid for handle in handles for pid in _tenants(nvml, handle))
    return CardsBefore(used_bytes=_used(nvml, handles), pids=pids)


def engine_vram(nvml: Nvml, pids: frozenset[int], before: CardsBefore | None) -> Held:
    """Bytes that an engine's processes hold on all cards.

    By process id where the driver lists it. Else, with ``before``: the one tenant that came since, as in a
    container, whose process ids the driver gives as the host counts them; else the rise of the cards' use.
    """
    handles = nvml.devices()
    tenants = [_tenants(nvml, handle) for handle in handles]
    held = _held_by(tenants, pids)
    if held.bytes is not None or before is None:
        return held
    new = {pid for card in tenants for pid in card} - before.pids
    held = _held_by(tenants, frozenset(new)) if len(new) == 1 else held
    if held.bytes is not None:
        doubt = (
            "VRAM: the driver does not know the engine's process id; the one new tenant of the card counts."
        )
        return Held(bytes=held.bytes, cards=held.cards, doubt=doubt)
    rises = [now - then for now, then in zip(_used(nvml, handles), before.used_bytes, strict=False)]
    cards = frozenset(index for index, rise in enumerate(rises) if rise > 0)
    doubt = "VRAM: the driver lists no process of the engine; the rise of the card's use counts, anyone's."
    return Held(bytes=sum(max(0, rise) for rise in rises), cards=cards, doubt=doubt)


def _held_by(tenants: list[dict[int, int | None]], pids: frozenset[int]) -> Held:
    mine = {index: [card[pid] for pid in pids if pid in card] for index, card in enumerate(tenants)}
    sizes = [size for row in mine.values() for size in row if size is not None]
    cards = frozenset(index for index, row in mine.items() if row)
    return Held(bytes=sum(sizes) if sizes else None, cards=cards)


def _tenants(nvml: Nvml, handle: Any) -> dict[int, int | None]:
    """Process id → bytes on this card; None where the driver doesn't tell the size."""
    found: dict[int, int | None] = {}
    for kind in ("Compute", "Graphics"):
        for row in nvml.ask(f"nvmlDeviceGet{kind}RunningProcesses", handle) or ():
            found[row.pid] = max(found.get(row.pid) or 0, row.usedGpuMemory or 0) or None
    return found


def _used(nvml: Nvml, handles: list[Any]) -> tuple[int, ...]:
    readings = (nvml.ask("nvmlDeviceGetMemoryInfo", handle) for handle in handles)
    return tuple(memory.used if memory is not None else 0 for memory in readings)


def _process_name(nvml: Nvml, pid: int) -> str | None:
    told = _text(nvml.ask("nvmlSystemGetProcessName", pid))
    if told:
        return told.split()[0].rpartition("/")[2]
    return name_of(pid) or None


def _text(value: Any) -> str | None:
    """Old versions of the bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _thousandth(value: int | None) -> float | None:
    return value / 1000 if value is not None else None
