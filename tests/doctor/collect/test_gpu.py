"""NVML, asked in a program of its own: the real one, with a stand-in for the bindings on PYTHONPATH."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect import gpu
from narthex.doctor.collect.gather import Collected, Scope
from narthex.doctor.collect.scope import NVML_CHILD
from narthex.units import GIB

BINDINGS = Path(__file__).with_name("fake_nvml")
ADA: dict[str, Any] = {
    "total": 20 * GIB,
    "used": 5 * GIB,
    "processes": [[999_999, 4 * GIB]],
    "ecc": [7, 0],
    "nvmlDeviceGetName": "NVIDIA RTX 4000 Ada Generation",
    "nvmlDeviceGetUUID": "GPU-2f1c9a54",
    "nvmlDeviceGetPersistenceMode": 0,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x20,
}


def ask(**told: Any) -> Collected:
    told = {"nvmlSystemGetDriverVersion": "550.54.14", "nvmlSystemGetCudaDriverVersion": 12040, **told}
    env = ("env", f"PYTHONPATH={BINDINGS}", f"FAKE_NVML={json.dumps(told)}")
    return gpu.collect(Scope(nvml=(*env, *NVML_CHILD)))


def row(found: Collected, name: str, about: str = "") -> Any:
    (reading,) = [row for row in found.readings if row.name == name and row.about == about]
    return reading


def test_a_card_with_a_tenant() -> None:
    found = ask(cards=[ADA])
    assert row(found, "nvml.status").text == "NVML works, driver 550.54.14"
    assert row(found, "gpu.count").value == 1
    assert row(found, "driver.cuda_version").text == "the driver 550.54.14 serves CUDA up to 12.4"
    memory = row(found, "gpu.memory", "0")
    assert memory.value == {
        "name": "NVIDIA RTX 4000 Ada Generation",
        "uuid": "GPU-2f1c9a54",
        "pci": "0000:01:00.0",
        "total_bytes": 20 * GIB,
        "used_bytes": 5 * GIB,
        "free_bytes": 15 * GIB,
    }
    assert memory.text == "card 0, NVIDIA RTX 4000 Ada Generation: 5.00 GiB of 20.0 GiB in use, 15.0 GiB free"
    tenant = row(found, "gpu.process", "999999")
    assert tenant.value["vram_bytes"] == 4 * GIB
    assert tenant.text == "card 0: a process that can't be seen (PID 999999) holds 4.00 GiB"
    assert row(found, "gpu.persistence", "0").text == "card 0 persistence mode: off"
    assert row(found, "gpu.throttle", "0").value == ["software thermal slowdown"]
    assert row(found, "gpu.ecc", "0").gap == "can't tell, because card 0 has no ECC memory, or ECC is off"
    assert [fact.text for fact in found.facts] == [
        "NVML lists card 0, NVIDIA RTX 4000 Ada Generation: 15.0 GiB of 20.0 GiB free."
    ]


def test_faults_of_the_cards_memory_are_counted() -> None:
    found = ask(
        cards=[
            ADA | {"ecc": [7, 2], "nvmlDeviceGetEccMode": [1, 1], "nvmlDeviceGetRemappedRows": [0, 1, 1, 0]}
        ]
    )
    ecc = row(found, "gpu.ecc", "0")
    assert ecc.value == {"uncorrectable": 2, "corrected": 7, "pending_retirement": True}
    assert ecc.text == "card 0 ECC: uncorrectable 2, corrected 7, pending_retirement yes"


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        (18, "LIB_RM_VERSION_MISMATCH", "Driver/library version mismatch"),
        (9, "DRIVER_NOT_LOADED", "the driver is not loaded"),
        (999, "UNKNOWN", "Unknown Error"),
        (15, "GPU_IS_LOST", "GPU is lost"),
    ],
)
def test_a_library_that_refuses_is_named_by_its_error(code: int, name: str, words: str) -> None:
    found = ask(init=code)
    assert row(found, "nvml.status").value == name
    assert row(found, "nvml.status").text == f"NVML can't be used: {words} (NVML_ERROR_{name})"
    assert row(found, "gpu.count").gap == "can't tell, because NVML can't be used"


def test_a_card_that_is_lost_beside_one_that_works() -> None:
    found = ask(cards=[{"total": 1, "used": 1, "lost": 15}, ADA])
    assert row(found, "gpu.lost", "0").value == "GPU_IS_LOST"
    assert row(found, "gpu.memory", "1").value["total_bytes"] == 20 * GIB


def test_a_call_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ASK_S", 0.5)
    found = ask(hangs_s=300, cards=[])
    assert row(found, "nvml.status").value == "TIMEOUT"
    assert row(found, "nvml.status").text.startswith("NVML did not answer within 0.5 s")


def test_a_program_that_dies_is_a_gap(host: Callable[..., Scope]) -> None:
    crash = (sys.executable, "-c", "import os; os.abort()")
    found = gpu.collect(host("healthy", nvml=crash))
    assert row(found, "nvml.status").value is None
    assert "ended without an answer: status -6" in row(found, "nvml.status").gap


def test_without_the_library_that_is_said(host: Callable[..., Scope]) -> None:
    found = ask(init=12)
    assert row(found, "nvml.status").value == "LIBRARY_NOT_FOUND"
    assert "libnvidia-ml.so.1 is not found" in row(found, "nvml.status").text


def test_a_tenant_that_is_comfyui_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("print('up', flush=True); import time; time.sleep(300)")
    process = subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        tenant = row(ask(cards=[ADA | {"processes": [[process.pid, GIB]]}]), "gpu.process", str(process.pid))
        assert tenant.value["service"] == "comfyui"
        assert tenant.value["name"].endswith(" (ComfyUI)")
    finally:
        process.kill()
        process.wait()
