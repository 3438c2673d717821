"""The shape of nvidia-ml-py, answering from the JSON in FAKE_NVML: cards that are not in this machine."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
NVML_ERROR_UNKNOWN = 999

TOLD: dict[str, Any] = json.loads(os.environ["FAKE_NVML"])


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


def nvmlInit() -> None:
    time.sleep(TOLD.get("hangs_s", 0))
    if "init" in TOLD:
        raise NVMLError(TOLD["init"])


def nvmlDeviceGetCount() -> int:
    return len(TOLD["cards"])


def nvmlDeviceGetHandleByIndex(index: int) -> Any:
    return TOLD["cards"][index]


def nvmlDeviceGetMemoryInfo(card: Any) -> Any:
    if "lost" in card:
        raise NVMLError(card["lost"])
    total, used = card["total"], card["used"]
    return SimpleNamespace(total=total, used=used, free=total - used)


def nvmlDeviceGetComputeRunningProcesses(card: Any) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.get("processes", ())]


def nvmlDeviceGetGraphicsRunningProcesses(card: Any) -> list[Any]:
    return []


def nvmlDeviceGetTotalEccErrors(card: Any, kind: int, counter: int) -> int:
    return int(card["ecc"][kind])


def nvmlDeviceGetPciInfo(card: Any) -> Any:
    return SimpleNamespace(busId=b"00000000:01:00.0")


def __getattr__(name: str) -> Any:
    """Everything else by the name that it has in the JSON; what is not there is not supported."""
    if not name.startswith("nvml"):
        raise AttributeError(name)

    def answer(*arguments: Any) -> Any:
        card = arguments[0] if arguments else TOLD
        if not isinstance(card, dict) or name not in card:
            raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
        return card[name]

    return answer
