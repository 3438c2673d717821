"""``python -m narthex.doctor.collect.nvml_child``: prints what NVML tells, as JSON.

A program of its own, since a call into the driver can hang for ever when a card has fallen off the bus.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from narthex.host.facts import GpuFacts
from narthex.host.gpu import Nvml, read_gpu

_UNCORRECTED, _CORRECTED, _SINCE_RESET = 1, 0, 0  # NVML's numbers


class Ecc(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of the card's memory since the last reset. None: the card does not tell."""

    uncorrectable: int | None = None
    corrected: int | None = None
    pending_retirement: bool | None = None


class CardSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One card; ``error`` is NVML's word for one that can't be asked."""

    index: int
    facts: GpuFacts | None = None
    pci: str = ""
    ecc: Ecc | None = None  # None: switched off, or the card has none
    persistence: bool | None = None
    error: str = ""


class NvmlSeen(msgspec.Struct, frozen=True, kw_only=True):
    """``status``: «ok», or NVML's name of the error without NVML_ERROR_; ``message`` is its text."""

    status: str
    message: str = ""
    driver: str = ""
    cuda: str = ""  # the newest CUDA that the driver serves: "12.4"
    cards: tuple[CardSeen, ...] = ()


def look() -> NvmlSeen:
    """Everything now. May hang."""
    try:
        import pynvml
    except ImportError:
        return NvmlSeen(status="NO_BINDINGS", message="the Python package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        return NvmlSeen(status=_name(pynvml, error), message=str(error))
    nvml = Nvml(pynvml)
    cards = tuple(_card(pynvml, nvml, index) for index in range(count))
    driver = nvml.ask("nvmlSystemGetDriverVersion") or ""
    cuda = nvml.ask("nvmlSystemGetCudaDriverVersion")  # 12040 is 12.4
    served = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
    return NvmlSeen(status="ok", driver=_text(driver), cuda=served, cards=cards)


def _card(library: Any, nvml: Nvml, index: int) -> CardSeen:
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError as error:
        return CardSeen(index=index, error=_name(library, error))
    place = nvml.ask("nvmlDeviceGetPciInfo", handle)
    persistence = nvml.ask("nvmlDeviceGetPersistenceMode", handle)
    return CardSeen(
        index=index,
        facts=read_gpu(nvml, index, handle),
        pci=_text(getattr(place, "busId", "")).lower()[-len("0000:01:00.0") :],  # NVML has eight digits first
        ecc=_ecc(nvml, handle),
        persistence=None if persistence is None else bool(persistence),
    )


def _ecc(nvml: Nvml, handle: Any) -> Ecc | None:
    mode = nvml.ask("nvmlDeviceGetEccMode", handle)
    if not mode or not mode[0]:
        return None
    pending = nvml.ask("nvmlDeviceGetRetiredPagesPendingStatus", handle)
    rows = nvml.ask("nvmlDeviceGetRemappedRows", handle)  # since Ampere rows are remapped instead
    told = [bool(pending)] if pending is not None else []
    told += [bool(rows[2])] if rows else []
    return Ecc(
        uncorrectable=nvml.ask("nvmlDeviceGetTotalEccErrors", handle, _UNCORRECTED, _SINCE_RESET),
        corrected=nvml.ask("nvmlDeviceGetTotalEccErrors", handle, _CORRECTED, _SINCE_RESET),
        pending_retirement=any(told) if told else None,
    )


def _name(library: Any, error: Any) -> str:
    """«GPU_IS_LOST» of NVML_ERROR_GPU_IS_LOST."""
    names = (name for name in dir(library) if name.startswith("NVML_ERROR_"))
    found = next((name for name in names if getattr(library, name) == error.value), "UNKNOWN")
    return found.removeprefix("NVML_ERROR_")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(look()))
