"""Faults of the card itself and of programs on it: the number decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]

APP = {
    "31": "NVRM: Xid (PCI:0000:07:00): 31, pid=16952, name=llama-server, Ch 00000008, intr 00000000. "
    "MMU Fault: ENGINE "
    "GRAPHICS GPC1 faulted @ 0x7d58_a0000000.\n",
    "13": "[ 7613.9] NVRM: Xid (PCI:0000:03:00): 13, pid=10635, Graphics SM Warp Exception on (GPC "
    "0, TPC 0, SM 0): Illegal "
    "Instruction Encoding\n",
    "43": "NVRM: Xid (PCI:0000:01:00): 43, pid=2201, name=python3, Ch 00000018\n",
    "an old driver": "NVRM: Xid (0000:01:00): 31, Ch 00000010, engmask 00000101, intr 10000000\n",
}
BUS = {
    "79": {"dmesg": "NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.\n"},
    "at start": {
        "dmesg": "NVRM: (PCI ID: 10de:26b5) installed in this system has\nNVRM: fallen off "
        "the bus and is not "
        "responding to commands.\n"
    },
    "nvidia-smi": {
        "nvidia_smi": "Unable to determine the device handle for GPU0000:17:00.0: Unknown Error\n"
    },
    "older nvidia-smi": {
        "nvidia_smi": "Unable to determine the device handle for GPU 0000:02:00.0: "
        "GPU is lost.  Reboot the "
        "system to recover this GPU\n"
    },
    "lspci": {
        "commands": "01:00.0 VGA compatible controller: NVIDIA Corporation GA102 [GeForce RTX "
        "3090] (rev ff)\n"
    },
    "power state": {
        "dmesg": "nvidia 0000:01:00.0: Unable to change power state from D3cold to D0, device inaccessible\n"
    },
    "firmware": {
        "dmesg": "NVRM: Xid (PCI:0000:0b:00): 119, pid=7, name=ollama, Timeout after 6s of "
        "waiting for RPC response "
        "from GPU0 GSP! Expected function 76\n"
    },
    "reset": {
        "dmesg": "NVRM: Xid (PCI:0000:0b:00): 62, 32323232 00007fa1\nNVRM: Xid "
        "(PCI:0000:0b:00): 154, GPU recovery "
        "action changed from 0x0 (None) to 0x1 (GPU Reset Required)\n"
    },
}
ECC = {
    "CUDA": {"llama_server_log": "CUDA error: uncorrectable ECC error encountered\n"},
    "48": {
        "dmesg": "NVRM: Xid (PCI:0000:3b:00): 48, pid=911, An uncorrectable double bit error "
        "(DBE) has been detected\n"
    },
    "94": {
        "dmesg": "NVRM: Xid (PCI:0000:3b:00): 94, pid=911, name=python, Contained: SM (0x1). RST: "
        "No, D-RST: No\n"
    },
    "64": {"dmesg": "NVRM: Xid (PCI:0000:3b:00): 64, Row Remapper Error\n"},
    "nvidia-smi": {
        "nvidia_smi": "|   0  NVIDIA A100-SXM4-40GB      On  | 00000000:07:00.0 Off |     "
        "               3 |\n"
    },
    "details": {"nvidia_smi": "        Pending Page Blacklist      : Yes\n"},
}


@pytest.mark.parametrize("text", APP.values(), ids=APP.keys())
def test_a_programs_fault(gpu_says: Says, text: str) -> None:
    (only,) = gpu_says(dmesg=text)
    assert only.cause == "gpu_xid_app_fault"
    assert only.severity is Severity.ERROR


def test_the_program_and_the_card_are_named(gpu_says: Says) -> None:
    (only,) = gpu_says(dmesg=APP["31"])
    assert "llama-server (PID 16952)" in only.why
    assert "0000:07:00" in only.why


def test_a_clean_up_alone_is_nothing(gpu_says: Says) -> None:
    assert gpu_says(dmesg="NVRM: Xid (PCI:0000:01:00): 45, pid=2201, name=ollama, Ch 00000018\n") == []


@pytest.mark.parametrize("texts", BUS.values(), ids=BUS.keys())
def test_a_card_that_no_longer_answers(gpu_says: Says, texts: dict[str, str]) -> None:
    (only,) = gpu_says(**texts)
    assert only.cause == "gpu_fell_off_bus"
    assert only.severity is Severity.CRITICAL
    assert only.confidence >= 0.7


def test_a_lost_card_is_the_root_of_what_follows(gpu_says: Says) -> None:
    found = gpu_says(
        dmesg=APP["31"] + BUS["79"]["dmesg"],
        ollama_log="cuda driver library init failure: 999\n"
        'msg="inference compute" id=cpu library=cpu compute="" total="31 GiB" available="20 GiB"\n',
    )
    assert found[0].cause == "gpu_fell_off_bus"
    assert {finding.consequence_of for finding in found[1:]} == {"gpu_fell_off_bus"}


def test_a_lost_card_on_this_machine(gpu_says: Says) -> None:
    (only,) = gpu_says([Reading(name="nvml.status", value="GPU_IS_LOST", text="NVML: GPU_IS_LOST")])
    assert only.cause == "gpu_fell_off_bus"


def test_a_card_whose_registers_read_ones_on_this_machine(gpu_says: Says) -> None:
    card = {"vendor": "nvidia", "driver": "nvidia", "fallen_off": True}
    text = "NVIDIA card 0000:01:00.0: its registers read ones"
    (only,) = gpu_says([Reading(name="pci.card", about="0000:01:00.0", value=card, text=text)])
    assert only.cause == "gpu_fell_off_bus"
    assert only.confidence >= 0.9


def test_nvml_that_hangs_is_a_suspicion(gpu_says: Says) -> None:
    (only,) = gpu_says([Reading(name="nvml.status", value="TIMEOUT", text="NVML did not answer")])
    assert only.cause == "gpu_fell_off_bus"
    assert only.confidence < 0.5


def test_a_card_that_came_back_is_a_warning(gpu_says: Says) -> None:
    readings = [
        Reading(name="nvml.status", value="ok", text="NVML answers"),
        Reading(name="gpu.count", value=1, text="NVML lists 1 card"),
    ]
    (only,) = gpu_says(readings, **BUS["79"])
    assert only.severity is Severity.WARNING


@pytest.mark.parametrize("texts", ECC.values(), ids=ECC.keys())
def test_memory_of_the_card_that_fails(gpu_says: Says, texts: dict[str, str]) -> None:
    (only,) = gpu_says(**texts)
    assert only.cause == "gpu_hw_ecc"


def test_a_row_that_was_taken_out_is_a_warning(gpu_says: Says) -> None:
    (only,) = gpu_says(
        dmesg="NVRM: Xid (PCI:0000:3b:00): 63, Row Remapper: New row (0x1) marked for remapping\n"
    )
    assert only.severity is Severity.WARNING


def test_counters_of_this_machines_card(gpu_says: Says) -> None:
    row = Reading(
        name="gpu.ecc", about="0", value={"uncorrectable": 2, "corrected": 9}, text="card 0: 2 uncorrectable"
    )
    assert [finding.cause for finding in gpu_says([row])] == ["gpu_hw_ecc"]
    clean = Reading(
        name="gpu.ecc", about="0", value={"uncorrectable": 0, "corrected": 9}, text="card 0: 0 uncorrectable"
    )
    assert gpu_says([clean]) == []
