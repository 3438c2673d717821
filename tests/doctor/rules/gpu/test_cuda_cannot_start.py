"""nvidia_uvm is missing or stale, by itself or since the machine slept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding

Says = Callable[..., list[Finding]]

CPU = (
    'time=2025-08-30T09:03:23.849-05:00 level=INFO source=types.go:130 msg="inference compute" id=0 '
    "library=cpu "
    'variant="" compute="" driver=0.0 name="" total="31.0 GiB" available="13.0 GiB"\n'
)
GPU = (
    'time=2025-08-30T10:03:23.849-05:00 level=INFO source=types.go:130 msg="inference compute" '
    "id=GPU-1 library=cuda "
    'variant=v12 compute=8.6 driver=12.9 name="NVIDIA GeForce RTX 3060" total="11.6 GiB" '
    'available="11.4 GiB"\n'
)
INIT_999 = (
    'time=2025-08-30T09:03:23.843-05:00 level=WARN source=gpu.go:605 msg="unknown error initializing '
    "cuda driver "
    "library /usr/lib/x86_64-linux-gnu/libcuda.so.575.64.03: cuda driver library init failure: 999. "
    'see https://x"\n'
)
UVM_LINES = {
    "0.11": INIT_999 + CPU,
    "0.11 in Compose": "".join(f"ollama-1  | {line}\n" for line in (INIT_999 + CPU).splitlines()),
    "0.1.4x at debug": "cuInit err: 999\ntime=2024-07-03T13:26:05.135+08:00 level=DEBUG source=gpu.go:517 "
    'msg="Unable to load nvcuda" library=/usr/lib/libcuda.so.535.183.01 error="nvcuda init failure: 999"\n',
    "0.1.3x through cudart": "cudaSetDevice err: 999\n",
    "context": "cuda driver library failed to get device context 999\n",
    "plain text before slog": "2024/01/10 12:36:57 CUDA error 999 at /go/src/ggml-cuda.cu:8000: "
    "unknown error\n",
    "llama-server": "ggml_cuda_init: failed to initialize CUDA: unknown error\n",
    "PyTorch": "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up "
    "environment, e.g. changing "
    "env variable CUDA_VISIBLE_DEVICES after program start.\n",
    "PyTorch with the code": "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run "
    "some cuda functions "
    "before calling NumCudaDevices() that might have already set an error? Error 999: unknown error\n",
    "a test by hand": "cuInit(0) -> 999 (CUDA_ERROR_UNKNOWN)\n",
}


@pytest.mark.parametrize("text", UVM_LINES.values(), ids=UVM_LINES.keys())
def test_999_in_every_wording_is_a_broken_nvidia_uvm(gpu_says: Says, text: str) -> None:
    first = gpu_says(ollama_log=text)[0]
    assert first.cause == "uvm_module_broken"
    assert first.confidence > 0.5
    assert any("rmmod nvidia_uvm" in step.text and step.root for step in first.remedy.commands)


def test_code_3_is_one_too_and_names_the_option_of_the_module(gpu_says: Says) -> None:
    first = gpu_says(
        ollama_log='msg="Unable to load cudart library /usr/lib/libcuda.so.575: '
        'cuda driver library init failure: 3"\n' + CPU
    )[0]
    assert first.cause == "uvm_module_broken"
    assert any("uvm_disable_hmm" in step.text for step in first.remedy.commands)


def test_a_later_start_with_the_gpu_ends_it(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=INIT_999 + CPU + GPU) == []


def test_a_mismatch_beside_it_is_the_reason(gpu_says: Says) -> None:
    causes = [
        finding.cause
        for finding in gpu_says(
            ollama_log=INIT_999 + CPU, nvidia_smi="Failed to initialize NVML: Driver/library version mismatch"
        )
    ]
    assert causes == ["driver_library_mismatch"]


def test_on_windows_there_is_no_such_module(gpu_says: Says) -> None:
    text = (
        'msg="unknown error initializing cuda driver library C:\\Windows\\System32\\nvcuda.dll: '
        'init failure: 999"'
    )
    assert "uvm_module_broken" not in [finding.cause for finding in gpu_says(ollama_log=text)]


def test_a_module_that_is_not_loaded_is_seen_on_this_machine(gpu_says: Says) -> None:
    readings = [
        Reading(name="module.nvidia", value=True, text="nvidia is loaded"),
        Reading(name="module.nvidia_uvm", value=False, text="nvidia_uvm is not in /proc/modules"),
        Reading(
            name="device.node", about="/dev/nvidia-uvm", value="missing", text="/dev/nvidia-uvm is missing"
        ),
        Reading(name="nvml.status", value="ok", text="NVML answers"),
        Reading(name="gpu.process", about="940", value={"name": "python", "card": 0}, text="python (940)"),
        Reading(
            name="container",
            about="ai-ollama",
            value={"role": "ollama", "gpu_request": True},
            text="ai-ollama runs",
        ),
    ]
    (only,) = gpu_says(readings)
    assert only.cause == "uvm_module_broken"
    assert only.confidence == 0.95
    steps = " ".join(step.text + step.note for step in only.remedy.commands)
    assert "python (PID 940)" in steps
    assert "docker restart ai-ollama" in steps


def test_a_module_that_nobody_needed_yet_is_no_trouble(gpu_says: Says) -> None:
    readings = [
        Reading(name="module.nvidia", value=True, text="nvidia is loaded"),
        Reading(name="module.nvidia_uvm", value=False, text="nvidia_uvm is not in /proc/modules"),
        Reading(name="nvml.status", value="ok", text="NVML answers"),
    ]
    (only,) = gpu_says(readings)
    assert not only.is_trouble


def test_a_node_that_fails_is_trouble_at_once(gpu_says: Says) -> None:
    readings = [
        Reading(name="module.nvidia", value=True, text="nvidia is loaded"),
        Reading(name="module.nvidia_uvm", value=True, text="nvidia_uvm is loaded"),
        Reading(name="device.node", about="/dev/nvidia-uvm", value="EIO", text="/dev/nvidia-uvm: EIO"),
    ]
    (only,) = gpu_says(readings)
    assert only.cause == "uvm_module_broken"
    assert only.confidence == 0.95


def test_with_a_working_node_nothing_is_said(gpu_says: Says) -> None:
    readings = [
        Reading(name="module.nvidia", value=True, text="nvidia is loaded"),
        Reading(name="module.nvidia_uvm", value=False, text="built into the kernel"),
        Reading(name="device.node", about="/dev/nvidia-uvm", value="ok", text="/dev/nvidia-uvm opens"),
    ]
    assert gpu_says(readings) == []


SLEEPS = {
    "kernel": {
        "dmesg": "Aug 30 02:10:11 box kernel: PM: suspend entry (deep)\n"
        "Aug 30 08:01:02 box kernel: PM: suspend exit\n"
    },
    "hibernation": {"dmesg": "[ 900.1] PM: hibernation: hibernation exit\n"},
    "logind": {"dmesg": "Aug 30 02:10:11 box systemd-logind[700]: Lid closed.\n"},
    "told": {"commands": "after resume from suspend the model is slow\n"},
    "power saving": {"commands": "$ cat /sys/bus/pci/devices/0000:01:00.0/power/runtime_status: suspended\n"},
}


@pytest.mark.parametrize("texts", SLEEPS.values(), ids=SLEEPS.keys())
def test_a_sleep_before_it_is_the_root(gpu_says: Says, texts: dict[str, str]) -> None:
    found = gpu_says(ollama_log=INIT_999 + CPU, **texts)
    assert [finding.cause for finding in found] == ["suspend_resume_gpu_lost"]
    steps = " ".join(step.text for step in found[0].remedy.commands)
    assert "NVreg_PreserveVideoMemoryAllocations=1" in steps
    assert "rmmod nvidia_uvm" in steps


def test_a_sleep_with_a_working_gpu_is_nothing(gpu_says: Says) -> None:
    assert (
        gpu_says(ollama_log=GPU, dmesg="[ 900.1] PM: suspend entry (deep)\n[ 901.0] PM: suspend exit\n") == []
    )


def test_the_drivers_own_complaint_about_sleeping_is_enough(gpu_says: Says) -> None:
    line = (
        "NVRM: GPU 0000:01:00.0: PreserveVideoMemoryAllocations module parameter is set. System "
        "Power Management "
        "attempted without driver procfs suspend interface. Please refer to the 'Configuring Power "
        "Management Support' "
        "section in the driver README.\n"
    )
    assert gpu_says(dmesg=line)[0].cause == "suspend_resume_gpu_lost"
