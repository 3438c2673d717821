"""The driver: of another version than its libraries, not loaded, too old, or merely suspected."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]

TABLE = (
    "| NVIDIA-SMI 550.54.14              Driver Version: 550.54.14      CUDA Version: 12.4     |\n"
    "|   0  NVIDIA GeForce RTX 3060        Off |   00000000:81:00.0  On |                  N/A |\n"
)
CPU = (
    'level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu total="31 GiB" '
    'available="20 GiB"\n'
)
GPU = (
    'level=INFO msg="inference compute" id=0 library=CUDA compute=8.9 name=CUDA0 description="RTX '
    '4070" total="11.7 GiB" '
    'available="11.2 GiB"\n'
)

MISMATCHES = {
    "nvidia-smi": {
        "nvidia_smi": "Failed to initialize NVML: Driver/library version mismatch\n"
        "NVML library version: 535.183\n"
    },
    "Docker's hook": {
        "client_error": "error running hook #0: exit status 1, stderr: Auto-detected "
        "mode as 'legacy' "
        "nvidia-container-cli: initialization error: nvml error: driver/library "
        "version mismatch: unknown."
    },
    "the kernel": {
        "dmesg": "NVRM: API mismatch: the client has the version 535.183.01, but\n"
        "NVRM: this kernel module has the version 535.171.04.  Please\n"
    },
    "Ollama": {
        "ollama_log": 'msg="version mismatch between driver and cuda driver library - reboot '
        "or upgrade may be "
        'required: library /usr/lib/libcuda.so.560.35.03"\n' + CPU
    },
    "old Ollama": {"ollama_log": "nvmlInit_v2 err: 18\n"},
    "code 803": {"ollama_log": "cuda driver library init failure: 803\n" + CPU},
    "llama.cpp": {
        "llama_server_log": "ggml_cuda_init: failed to initialize CUDA: system has "
        "unsupported display driver "
        "/ cuda driver combination\n"
    },
    "PyTorch": {
        "comfyui_log": "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you "
        "run some cuda functions"
        " before calling NumCudaDevices() that might have already set an error? Error 803: "
        "system has unsupported "
        "display driver / cuda driver combination\n"
    },
    "go-nvml": {"client_error": "failed to initialize NVML: ERROR_LIB_RM_VERSION_MISMATCH"},
    "two versions on disk and loaded": {
        "commands": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  "
        "535.171.04  Tue\n"
        "$ modinfo nvidia | grep ^version\nversion:        535.183.01\n"
    },
}


@pytest.mark.parametrize("texts", MISMATCHES.values(), ids=MISMATCHES.keys())
def test_differing_versions_in_every_wording(gpu_says: Says, texts: dict[str, str]) -> None:
    first = gpu_says(**texts)[0]
    assert first.cause == "driver_library_mismatch"
    assert first.confidence > 0.5


def test_the_two_versions_are_told(gpu_says: Says) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue\nNVML library version: 580.105\n"
    first = gpu_says(nvidia_smi="Failed to initialize NVML: Driver/library version mismatch\n" + text)[0]
    assert "580.95.05" in first.why
    assert "580.105" in first.title


def test_a_mismatch_before_the_last_boot_is_over(gpu_says: Says) -> None:
    text = (
        "NVRM: API mismatch: the client has the version 535.183.01, but\n[0.0] Linux version "
        "6.8.0-45-generic (b@x)\n"
    )
    assert gpu_says(dmesg=text) == []


def test_one_client_with_other_libraries_is_only_a_suspicion_while_the_card_works(gpu_says: Says) -> None:
    text = "NVRM: API mismatch: the client has the version 535.183.01, but\n"
    (only,) = gpu_says(dmesg=text, nvidia_smi=TABLE)
    assert only.confidence < 0.5


def test_a_mismatch_on_this_machine_by_its_readings(gpu_says: Says) -> None:
    readings = [
        Reading(name="nvml.status", value="LIB_RM_VERSION_MISMATCH", text="NVML: LIB_RM_VERSION_MISMATCH"),
        Reading(name="driver.module_version", value="550.54.14", text="the module is 550.54.14"),
        Reading(name="driver.library_version", value="550.127.05", text="the library is 550.127.05"),
    ]
    (only,) = gpu_says(readings)
    assert only.cause == "driver_library_mismatch"
    assert "550.127.05" in only.title


NOT_LOADED = {
    "nvidia-smi": {
        "nvidia_smi": "NVIDIA-SMI has failed because it couldn't communicate with the "
        "NVIDIA driver. Make sure "
        "that the latest NVIDIA driver is installed and running.\n"
    },
    "Secure Boot": {"commands": "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n"},
    "toolkit": {
        "client_error": "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown"
    },
    "another kernel's module": {
        "dmesg": "nvidia: version magic '6.8.0-40-generic SMP' should be '6.8.0-45-generic SMP'\n"
    },
    "no module": {
        "commands": "modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.8.0-45-generic\n"
    },
    "nouveau": {
        "commands": "01:00.0 VGA compatible controller: NVIDIA Corporation GA104 [GeForce "
        "RTX 3070] (rev a1)\n"
        "\tKernel driver in use: nouveau\n"
    },
    "a card and no nvidia-smi": {
        "commands": "$ lspci | grep -i nvidia\n01:00.0 3D controller: "
        "NVIDIA Corporation TU117M\n"
        "$ nvidia-smi\nbash: nvidia-smi: command not found\n"
    },
    "the open module refuses the card": {
        "dmesg": "NVRM: The NVIDIA GPU 0000:01:00.0 installed in "
        "this system is\nNVRM: not "
        "supported by open nvidia.ko because it does not include "
        "the required GPU\n"
    },
}


@pytest.mark.parametrize("texts", NOT_LOADED.values(), ids=NOT_LOADED.keys())
def test_no_driver_in_every_wording(gpu_says: Says, texts: dict[str, str]) -> None:
    first = gpu_says(**texts)[0]
    assert first.cause == "driver_not_loaded"
    assert first.severity is Severity.CRITICAL
    assert first.confidence >= 0.8


def test_a_refused_key_is_told_as_secure_boot(gpu_says: Says) -> None:
    assert "Secure Boot" in gpu_says(**NOT_LOADED["Secure Boot"])[0].why


def test_a_missing_nvidia_smi_inside_a_container_says_nothing_about_the_driver(gpu_says: Says) -> None:
    text = "$ docker exec ollama nvidia-smi\nOCI runtime exec failed: nvidia-smi: command not found\n"
    assert gpu_says(commands=text) == []


def test_the_uvm_module_that_can_not_be_inserted_is_not_the_driver(gpu_says: Says) -> None:
    found = gpu_says(commands="modprobe: ERROR: could not insert 'nvidia_uvm': No such device\n")
    assert "driver_not_loaded" not in [finding.cause for finding in found]


def test_a_driver_that_works_again_is_not_reported(gpu_says: Says) -> None:
    assert gpu_says(commands=NOT_LOADED["no module"]["commands"] + "$ nvidia-smi\n" + TABLE) == []


def test_a_card_without_a_module_on_this_machine(gpu_says: Says) -> None:
    readings = [
        Reading(name="pci.nvidia", value=1, text="1 NVIDIA display controller"),
        Reading(name="module.nvidia", value=False, text="nvidia is not in /proc/modules"),
        Reading(name="module.nouveau", value=True, text="nouveau is loaded"),
    ]
    (only,) = gpu_says(readings)
    assert only.cause == "driver_not_loaded"
    assert "nouveau" in only.why


def test_a_card_that_is_given_to_a_virtual_machine_needs_no_driver(gpu_says: Says) -> None:
    card = {"vendor": "nvidia", "driver": "vfio-pci", "fallen_off": False}
    readings = [
        Reading(name="pci.nvidia", value=1, text="1 NVIDIA display controller"),
        Reading(name="pci.card", about="0000:01:00.0", value=card, text="NVIDIA card: driver vfio-pci"),
        Reading(name="module.nvidia", value=False, text="nvidia is not in /proc/modules"),
    ]
    assert gpu_says(readings) == []


def test_a_machine_without_a_card_needs_no_driver(gpu_says: Says) -> None:
    readings = [
        Reading(name="pci.nvidia", value=0, text="no NVIDIA display controller"),
        Reading(name="module.nvidia", value=False, text="nvidia is not in /proc/modules"),
        Reading(name="nvml.status", value="LIBRARY_NOT_FOUND", text="there is no libnvidia-ml.so.1"),
    ]
    assert gpu_says(readings) == []


TOO_OLD = {
    "toolkit": {
        "client_error": "nvidia-container-cli: requirement error: unsatisfied condition: "
        "cuda>=12.6, please update "
        "your driver to a newer version, or use an earlier cuda container: unknown"
    },
    "Ollama 0.30": {
        "ollama_log": 'level=WARN msg="NVIDIA driver too old" device="NVIDIA GeForce GTX '
        '1070 Ti" compute=6.1 '
        'driver=535 required_driver="570 or newer"\n' + CPU
    },
    "llama.cpp": {
        "llama_server_log": "ggml_cuda_init: failed to initialize CUDA: CUDA driver "
        "version is insufficient for "
        "CUDA runtime version\n"
    },
    "PyTorch": {
        "comfyui_log": "RuntimeError: The NVIDIA driver on your system is too old (found "
        "version 11040). Please "
        "update your GPU driver\n"
    },
    "PTX": {"llama_server_log": "CUDA error: the provided PTX was compiled with an unsupported toolchain.\n"},
    "AMD": {
        "ollama_log": 'msg="AMD driver is too old. Update your AMD driver to enable GPU inference."\n' + CPU
    },
}


@pytest.mark.parametrize("texts", TOO_OLD.values(), ids=TOO_OLD.keys())
def test_a_driver_that_is_too_old_in_every_wording(gpu_says: Says, texts: dict[str, str]) -> None:
    first = gpu_says(**texts)[0]
    assert first.cause == "driver_too_old"
    assert first.confidence >= 0.8


def test_what_is_installed_and_what_is_needed_is_told(gpu_says: Says) -> None:
    assert "535" in gpu_says(**TOO_OLD["Ollama 0.30"])[0].why
    assert "570 or newer" in gpu_says(**TOO_OLD["Ollama 0.30"])[0].why


def test_an_invalid_image_on_an_old_driver_is_the_drivers_fault(gpu_says: Says) -> None:
    text = TOO_OLD["Ollama 0.30"]["ollama_log"] + "CUDA error: device kernel image is invalid\n"
    found = gpu_says(ollama_log=text)
    assert [finding.cause for finding in found] == ["driver_too_old", "gpu_arch_not_in_build"]
    assert found[1].consequence_of == "driver_too_old"


def test_too_old_or_missing_without_any_nvidia_card_is_normal(gpu_says: Says) -> None:
    text = (
        "cudaSetDevice err: 35\n"
        'level=DEBUG msg="Unable to load cudart" library=/tmp/runners/cuda_v11/libcudart.so.11.0 '
        'error="your nvidia '
        'driver is too old or missing.  If you have a CUDA GPU please upgrade to run ollama"\n'
        'msg="inference compute" id=0 library=rocm compute=gfx1100 driver=6.3 name=1002:744c '
        'total="24.0 GiB"\n'
    )
    assert gpu_says(ollama_log=text) == []


def test_a_driver_below_the_minimum_of_this_ollama_is_likely_the_reason(gpu_says: Says) -> None:
    start = 'level=INFO msg="Listening on 127.0.0.1:11434 (version 0.32.1)"\n' + CPU
    old = "| NVIDIA-SMI 535.113.01   Driver Version: 535.113.01   CUDA Version: 12.2 |\n"
    assert gpu_says(ollama_log=start, nvidia_smi=old)[0].cause == "driver_too_old"
    assert gpu_says(ollama_log=start.replace("0.32.1", "0.9.0"), nvidia_smi=old)[0].cause == "gpu_not_visible"


def test_a_library_without_a_call_of_newer_drivers_is_too_old(gpu_says: Says) -> None:
    text = (
        'level=INFO msg="Unable to load cudart library /usr/lib/libcuda.so.418.74: symbol lookup for '
        'cuCtxCreate_v3 failed: undefined symbol: cuCtxCreate_v3"\n'
    )
    (only,) = gpu_says(ollama_log=text + CPU)
    assert only.cause == "driver_too_old"
    none = 'level=INFO msg="no nvidia devices detected by library /usr/lib/libcuda.so.525.89.02"\n'
    assert [finding.cause for finding in gpu_says(ollama_log=none + text + CPU)] == ["gpu_not_visible"]


def test_two_versions_of_which_one_uses_the_gpu_are_a_suspicion(gpu_says: Says) -> None:
    text = (
        'msg="Listening on 127.0.0.1:11434 (version 0.24.0)"\n'
        + GPU
        + 'msg="Listening on 127.0.0.1:11434 (version 0.30.0)"\n'
        + CPU
    )
    (only,) = gpu_says(ollama_log=text)
    assert only.cause == "driver_or_build_compat"
    assert only.confidence < 0.5
    assert "0.24.0" in only.title


def test_an_image_that_asks_for_a_brand_asks_for_a_newer_driver(gpu_says: Says) -> None:
    line = "nvidia-container-cli: requirement error: unsatisfied condition: brand = tesla\n"
    assert gpu_says(client_error=line)[0].cause == "driver_too_old"


def test_nvidia_smi_without_its_library_is_a_suspicion_and_not_in_a_container(gpu_says: Says) -> None:
    line = "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n"
    found = gpu_says(commands=line)[0]
    assert found.cause == "driver_not_loaded"
    assert found.confidence < 0.5
    assert gpu_says(commands="$ docker exec ollama nvidia-smi\n" + line) == []


@pytest.mark.parametrize(
    ("name", "cause"),
    [("CUDA_ERROR_NO_DEVICE", "gpu_not_visible"), ("CUDA_ERROR_ECC_UNCORRECTABLE", "gpu_hw_ecc")],
)
def test_the_name_of_an_error_alone_tells_it(gpu_says: Says, name: str, cause: str) -> None:
    assert gpu_says(client_error=f"Call to cuInit results in {name}\n")[0].cause == cause


def test_an_open_module_that_does_not_serve_this_card_is_no_working_driver(gpu_says: Says) -> None:
    text = (
        "[    3.513141] NVRM: Open nvidia.ko is only ready for use on Data Center GPUs.\n"
        "[    3.824916] NVRM: GPU 0000:04:00.0: RmInitAdapter failed! (0x63:0x0:1905)\n"
    )
    assert gpu_says(dmesg=text)[0].cause == "driver_not_loaded"
