"""NVML through one wrapper: whatever a card does not tell is unknown, and named once.

``Library`` has the shape of ``pynvml`` and answers from plain values: cards that are not in this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from narthex.host.facts import CardsBefore
from narthex.host.gpu import (
    Nvml,
    VramReturn,
    bandwidth,
    cards_before,
    engine_vram,
    open_nvml,
    read_gpu,
    read_gpus,
    read_processes,
    read_throttle,
)
from narthex.units import GIB

NOT_SUPPORTED, PROCESS_GONE = 3, 6


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__("Not Supported" if value == NOT_SUPPORTED else "Not Found")
        self.value = value


class Library:
    """Cards as a driver would describe them; what is not given is not supported."""

    NVMLError = NVMLError

    def __init__(self, used: int = 2 * GIB, **answers: Any) -> None:
        self.used = used
        self.calls: list[str] = []
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "card",
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            **answers,
        }

    def nvmlDeviceGetMemoryInfo(self, card: Any) -> Any:
        return SimpleNamespace(total=20 * GIB, used=self.used, free=20 * GIB - self.used)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any) -> Any:
            self.calls.append(name)
            value = self.answers.get(name, NOT_SUPPORTED)
            if value in (NOT_SUPPORTED, PROCESS_GONE) and name not in ("nvmlDeviceGetCount",):
                raise NVMLError(value)
            return value

        if not name.startswith("nvml"):
            raise AttributeError(name)
        return answer


def tenant(pid: int, size: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


def test_a_card_that_tells_everything() -> None:
    library = Library(
        nvmlDeviceGetUUID="GPU-1",
        nvmlDeviceGetName=b"NVIDIA RTX 4000 Ada Generation",
        nvmlDeviceGetTemperature=61,
        nvmlDeviceGetClockInfo=2100,
        nvmlDeviceGetPowerUsage=118_500,
        nvmlDeviceGetEnforcedPowerLimit=130_000,
        nvmlDeviceGetCurrentClocksEventReasons=0x04 | 0x20 | 0x01,
        nvmlDeviceGetMemoryBusWidth=160,
        nvmlDeviceGetMaxClockInfo=9001,
        nvmlDeviceGetComputeRunningProcesses=[tenant(7, GIB), tenant(8, 3 * GIB)],
        nvmlDeviceGetGraphicsRunningProcesses=[tenant(7, GIB)],
        nvmlSystemGetProcessName="/usr/bin/some-app --flag",
    )
    gpu = read_gpu(Nvml(library), 0, "card")
    assert (gpu.name, gpu.uuid, gpu.total_bytes, gpu.free_bytes) == (
        "NVIDIA RTX 4000 Ada Generation",
        "GPU-1",
        20 * GIB,
        18 * GIB,
    )
    assert (gpu.temperature_c, gpu.power_w, gpu.power_limit_w) == (61, 118.5, 130.0)
    assert gpu.throttle_reasons == ("power cap", "software thermal slowdown")
    assert [(row.pid, row.name, row.vram_bytes) for row in gpu.processes] == [
        (8, "some-app", 3 * GIB),
        (7, "some-app", GIB),
    ]


def test_a_card_that_tells_nothing_is_unknown_with_each_gap_named_once() -> None:
    library = Library()
    nvml = Nvml(library)
    for _ in range(3):
        gpu = read_gpu(nvml, 0, "card")
    assert (gpu.temperature_c, gpu.power_w, gpu.bandwidth_bytes_s, gpu.sm_clock_mhz) == (None,) * 4
    assert library.calls.count("nvmlDeviceGetPowerUsage") == 1, "it is not asked again"
    power = [gap for gap in nvml.gaps() if "nvmlDeviceGetPowerUsage" in gap]
    assert power == ["GPU: nvmlDeviceGetPowerUsage is not available (Not Supported)."]


def test_what_one_card_lacks_another_still_tells() -> None:
    class TwoCards(Library):
        def nvmlDeviceGetPowerUsage(self, card: str) -> int:
            if card == "old":
                raise NVMLError(NOT_SUPPORTED)
            return 100_000

    nvml = Nvml(TwoCards())
    assert [nvml.ask("nvmlDeviceGetPowerUsage", card) for card in ("old", "new", "old", "new")] == [
        None,
        100_000,
        None,
        100_000,
    ]


def test_the_name_that_older_drivers_have_will_do() -> None:
    nvml = Nvml(Library(nvmlDeviceGetCurrentClocksThrottleReasons=0x40))
    assert read_throttle(nvml, "card") == ("hardware thermal slowdown",)
    assert read_throttle(nvml, "card") == ("hardware thermal slowdown",)
    assert nvml.gaps() == ()
    assert read_throttle(Nvml(Library()), "card") == ()


def test_a_passing_failure_is_asked_again() -> None:
    nvml = Nvml(Library(nvmlDeviceGetTemperature=PROCESS_GONE))
    assert nvml.ask("nvmlDeviceGetTemperature", "card", 0) is None
    assert nvml.gaps() == ()


def test_bindings_without_a_function_are_a_gap() -> None:
    nvml = Nvml(SimpleNamespace(NVMLError=NVMLError))
    assert nvml.ask("nvmlDeviceGetCount") is None
    assert nvml.devices() == []
    assert "not known to this nvidia-ml-py" in nvml.gaps()[0]


@pytest.mark.parametrize(
    ("bus", "clock", "gigabytes"),
    [(160, 9001, 360), (384, 10501, 1008), (5120, 2619, 3352)],  # RTX 4000 Ada, RTX 4090, H100 SXM
)
def test_the_bandwidth_is_the_vendors_figure(bus: int, clock: int, gigabytes: int) -> None:
    assert (bandwidth(bus, clock) or 0) / 1e9 == pytest.approx(gigabytes, rel=0.001)
    assert bandwidth(None, clock) is None


def test_a_tenant_without_a_size_is_still_named() -> None:
    nvml = Nvml(Library(nvmlDeviceGetComputeRunningProcesses=[tenant(os.getpid(), None)]))
    (row,) = read_processes(nvml, "card")
    assert (row.pid, row.vram_bytes) == (os.getpid(), None)
    assert row.name


def test_an_engines_memory_is_found_by_its_process_id() -> None:
    nvml = Nvml(Library(nvmlDeviceGetComputeRunningProcesses=[tenant(7, GIB), tenant(8, 3 * GIB)]))
    held = engine_vram(nvml, frozenset({8}), None)
    assert (held.bytes, held.cards, held.doubt) == (3 * GIB, frozenset({0}), None)
    assert engine_vram(nvml, frozenset({9}), None).bytes is None


def test_in_a_container_the_one_new_tenant_is_the_engine() -> None:
    nvml = Nvml(Library(nvmlDeviceGetComputeRunningProcesses=[tenant(70_001, GIB), tenant(70_002, 3 * GIB)]))
    before = CardsBefore(used_bytes=(GIB,), pids=frozenset({70_001}))
    held = engine_vram(nvml, frozenset({12}), before)
    assert held.bytes == 3 * GIB
    assert "process id" in (held.doubt or "")


def test_where_no_tenant_is_listed_the_rise_of_the_card_counts_and_says_so() -> None:
    nvml = Nvml(Library(used=5 * GIB))
    held = engine_vram(nvml, frozenset({12}), CardsBefore(used_bytes=(2 * GIB,), pids=frozenset()))
    assert (held.bytes, held.cards) == (3 * GIB, frozenset({0}))
    assert "anyone's" in (held.doubt or "")


def test_two_new_tenants_are_not_guessed_at() -> None:
    nvml = Nvml(Library(used=5 * GIB, nvmlDeviceGetComputeRunningProcesses=[tenant(1, GIB), tenant(2, GIB)]))
    held = engine_vram(nvml, frozenset({12}), CardsBefore(used_bytes=(2 * GIB,), pids=frozenset()))
    assert held.bytes == 3 * GIB
    assert "anyone's" in (held.doubt or "")


def test_memory_comes_back() -> None:
    library = Library(used=5 * GIB, nvmlDeviceGetComputeRunningProcesses=[tenant(8, 3 * GIB)])
    memory = VramReturn(8, 0, Nvml(library))
    assert memory.is_back(seconds=0) is False
    library.used, library.answers["nvmlDeviceGetComputeRunningProcesses"] = 2 * GIB, []
    assert memory.is_back(seconds=0) is True


def test_memory_that_stays_is_told_also_where_the_driver_lists_no_process() -> None:
    library = Library(used=5 * GIB)
    memory = VramReturn(8, 3 * GIB, Nvml(library))
    library.used = 4 * GIB
    assert memory.is_back(seconds=0) is False
    library.used = 2 * GIB
    assert memory.is_back(seconds=0) is True


def test_memory_of_a_process_out_of_sight_is_told_by_the_cards_use() -> None:
    library = Library(used=5 * GIB)
    memory = VramReturn(None, 3 * GIB, Nvml(library))
    assert memory.is_back(seconds=0) is False
    library.used = 2 * GIB
    assert memory.is_back(seconds=0) is True


def test_without_nvml_nothing_is_known_and_the_reason_is_told() -> None:
    if open_nvml()[0] is not None:
        pytest.skip("this machine has NVML")
    gpus, gaps, driver = read_gpus()
    assert (gpus, driver) == ((), None)
    assert gaps[0].startswith("GPUs: NVML can't be used")
    assert cards_before() is None
    assert VramReturn(1, GIB, None).is_back() is None


@pytest.mark.gpu
def test_a_real_card_tells_what_it_is() -> None:
    gpus, gaps, driver = read_gpus()
    if not gpus:
        pytest.skip(gaps[0])
    assert driver
    for gpu in gpus:
        assert 0 < gpu.free_bytes <= gpu.total_bytes
        assert gpu.name
        assert gpu.bandwidth_bytes_s is None or gpu.bandwidth_bytes_s > 50e9
