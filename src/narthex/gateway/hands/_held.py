"""What an engine holds of the memory that is given away: VRAM, or main memory on a machine without a card."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.engines._base import DeviceBuffers
from narthex.host.collect import read_memory
from narthex.host.facts import CardsBefore
from narthex.host.gpu import engine_vram, open_nvml
from narthex.host.processes import resident_bytes
from narthex.memory.overhead import device_overhead


def has_card() -> bool:
    """Whether NVML shows a card on this machine."""
    nvml, _ = open_nvml()
    return nvml is not None and bool(nvml.devices())


def vram_of(pids: frozenset[int], before: CardsBefore | None = None) -> int | None:
    """Bytes that these processes hold on the cards; None without a card, or where the driver shows neither
    them nor, with ``before``, who came since."""
    nvml, _ = open_nvml()
    if nvml is None or not nvml.devices():
        return None
    return engine_vram(nvml, pids, before).bytes


def server_holds(pid: int, buffers: Sequence[DeviceBuffers], before: CardsBefore | None) -> int | None:
    """A llama-server's share. By NVML where there is a card; else what the engine's log told of a GPU that
    NVML does not know; else its main memory, at least what it said that it took: pages that were not yet
    written to are no less promised."""
    on_gpus = [row for row in buffers if row.device != "Host" and "RPC" not in row.device]
    if has_card():
        return vram_of(frozenset({pid}), before) if on_gpus else 0
    if told := _sum(on_gpus):
        return told + device_overhead(None)[0]
    resident = resident_bytes(pid)
    promised = _sum([row for row in buffers if row.device == "Host"])
    return max(resident or 0, promised) or None


def free_bytes() -> int | None:
    """Free on all cards together; without a card, of main memory."""
    nvml, _ = open_nvml()
    if nvml is not None and nvml.devices():
        readings = [nvml.ask("nvmlDeviceGetMemoryInfo", handle) for handle in nvml.devices()]
        known = [memory.free for memory in readings if memory is not None]
        return sum(known) if known else None
    return read_memory()[1] or None


def _sum(buffers: Sequence[DeviceBuffers]) -> int:
    return sum(row.model_bytes + row.context_bytes + row.compute_bytes for row in buffers)
