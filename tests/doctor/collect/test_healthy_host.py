"""From a recorded machine through every rule: what a healthy one says, and what a broken one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect.gather import HOST, Scope, gather
from narthex.doctor.collect.scope import NVML_CHILD
from narthex.doctor.diagnose import diagnose
from narthex.doctor.finding import Diagnosis
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.rules import RULES, SIGNS
from narthex.testing.fake_docker import FakeDocker
from narthex.units import GIB

from .boxes import box

BINDINGS = Path(__file__).with_name("fake_nvml")
ADA = {
    "total": 20 * GIB,
    "used": 5 * GIB,
    "processes": [[999_999, 4 * GIB]],
    "nvmlDeviceGetName": "NVIDIA RTX 4000 Ada Generation",
    "nvmlDeviceGetPersistenceMode": 1,
}
Host = Callable[..., Scope]


@pytest.fixture(autouse=True)
def stack(fake_docker: FakeDocker) -> None:
    """Ollama with the card, ComfyUI with it, OpenWebUI without, and a stranger."""
    fake_docker.info = {
        "Runtimes": {"runc": {}, "nvidia": {}},
        "DefaultRuntime": "runc",
        "CgroupDriver": "systemd",
        "OperatingSystem": "Ubuntu 22.04.4 LTS",
    }
    local = {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}
    fake_docker.add(box("ollama", gpu=True, command=["serve"], ports=local))
    fake_docker.add(box("open-webui", env=["OLLAMA_BASE_URL=http://ollama:11434"]))
    fake_docker.add(box("comfyui", gpu=True))
    fake_docker.add(box("db"))


def look(scope: Scope) -> Diagnosis:
    found = gather(scope, collectors=HOST)
    evidence = read_evidence(
        found.texts,
        SIGNS,
        readings=found.readings,
        facts=found.facts,
        skipped=found.skipped,
        live=True,
    )
    return diagnose(evidence, RULES)


def nvml(**told: Any) -> tuple[str, ...]:
    told = {"nvmlSystemGetDriverVersion": "550.54.14", **told}
    return ("env", f"PYTHONPATH={BINDINGS}", f"FAKE_NVML={json.dumps(told)}", *NVML_CHILD)


@pytest.mark.parametrize(("name", "told"), [("healthy", {"cards": [ADA]}), ("no_nvidia", {"init": 12})])
def test_a_healthy_host_has_no_finding(host: Host, name: str, told: dict[str, Any]) -> None:
    found = look(host(name, nvml=nvml(**told)))
    assert [finding.cause for finding in found.findings if finding.is_trouble] == []
    assert not [gap for gap in found.skipped if gap.broke]
    assert found.facts


@pytest.mark.parametrize(
    ("name", "told", "cause"),
    [
        ("uvm_missing", {"cards": [ADA]}, "uvm_module_broken"),
        ("driver_mismatch", {"init": 18}, "driver_library_mismatch"),
        ("nouveau", {"init": 12}, "driver_not_loaded"),
        ("not_loaded", {"init": 9}, "driver_not_loaded"),
        ("fallen_off", {"init": 15}, "gpu_fell_off_bus"),
        ("killed_for_memory", {"cards": [ADA]}, "host_oom_kill"),
    ],
)
def test_a_broken_host_is_named_by_its_root(host: Host, name: str, told: dict[str, Any], cause: str) -> None:
    found = look(host(name, nvml=nvml(**told)))
    assert found.findings[0].cause == cause
    assert found.findings[0].confidence >= 0.6
    assert found.findings[0].evidence[0].text


def test_a_stale_uvm_node_is_named_though_nvml_works(host: Host) -> None:
    def refuse(path: Path) -> None:
        if path.name == "nvidia-uvm":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    found = look(host("healthy", nvml=nvml(cards=[ADA]), open_device=refuse))
    assert found.findings[0].cause == "uvm_module_broken"
    quoted = [quote.text for quote in found.findings[0].evidence]
    assert "/dev/nvidia-uvm can't be opened for reading and writing: Input/output error (EIO)" in quoted
