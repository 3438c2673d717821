"""Cards that are there and not used: not visible, too slow, hidden, wrong, integrated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]

CPU = (
    'level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu total="31 GiB" '
    'available="20 GiB"\n'
)
CUDA = (
    'level=INFO msg="inference compute" id=0 library=CUDA compute=8.9 name=CUDA0 '
    'description="NVIDIA GeForce RTX 4070" '
    'type=discrete total="11.7 GiB" available="11.2 GiB"\n'
)
ROCM = (
    'level=INFO msg="inference compute" id=0 library=ROCm compute=gfx1100 name=ROCm0 '
    'description="AMD Radeon RX 7900" '
    'type=discrete total="24.0 GiB" available="23.8 GiB"\n'
)
LOW_VRAM = 'msg="entering low vram mode" "total vram"="0 B" threshold="20.0 GiB"\n'

NOT_VISIBLE = {
    "0.5": {
        "ollama_log": 'msg="no nvidia devices detected by library /usr/lib64/libcuda.so.550.144.03"\n' + CPU
    },
    "code 100": {"ollama_log": "cuda driver library init failure: 100\n" + CPU},
    "llama.cpp": {
        "llama_server_log": "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n"
    },
    "nvidia-smi": {"nvidia_smi": "No devices were found\n"},
    "the driver can't start it": {
        "dmesg": "NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0x56:1474)\n",
        "nvidia_smi": "No devices were found\n",
    },
    "PyTorch": {"comfyui_log": "RuntimeError: No CUDA GPUs are available\n"},
    "it works outside": {
        "ollama_log": CPU,
        "nvidia_smi": "| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4 |\n",
    },
}


@pytest.mark.parametrize("texts", NOT_VISIBLE.values(), ids=NOT_VISIBLE.keys())
def test_no_card_in_every_wording(gpu_says: Says, texts: dict[str, str]) -> None:
    (only,) = gpu_says(**texts)
    assert only.cause == "gpu_not_visible"
    assert only.confidence >= 0.5


def test_it_is_left_to_the_container_where_the_right_was_revoked(gpu_says: Says) -> None:
    assert (
        gpu_says(
            nvidia_smi="Failed to initialize NVML: Unknown Error", client_error="No CUDA GPUs are available"
        )
        == []
    )


def test_the_probe_of_another_maker_finds_nothing_rightly(gpu_says: Says) -> None:
    text = "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected\n"
    assert gpu_says(ollama_log=text + CUDA) == []
    assert gpu_says(ollama_log=CUDA, llama_server_log=text) == []


def test_nvml_that_lists_no_card_on_this_machine(gpu_says: Says) -> None:
    readings = [
        Reading(name="pci.nvidia", value=1, text="1 NVIDIA display controller"),
        Reading(name="module.nvidia", value=True, text="nvidia is loaded"),
        Reading(name="nvml.status", value="ok", text="NVML answers"),
        Reading(name="gpu.count", value=0, text="NVML lists no card"),
    ]
    (only,) = gpu_says(readings)
    assert only.cause == "gpu_not_visible"


TIMEOUT_E = (
    'ollama  | time=2025-12-03T03:17:28.308Z level=INFO source=runner.go:463 msg="failure during '
    'GPU discovery" '
    'OLLAMA_LIBRARY_PATH="[/usr/lib/ollama /usr/lib/ollama/cuda_v12]" extra_envs=map[GGML_CUDA_INIT:1] '
    'error="failed to finish discovery before timeout"\n'
)
TIMEOUT_F = (
    'level=WARN source=runner.go:584 msg="llama-server GPU discovery watchdog timed out"\n'
    'level=INFO msg="failure during llama-server GPU discovery" error="context deadline exceeded" detail=""\n'
)


@pytest.mark.parametrize("text", [TIMEOUT_E, TIMEOUT_E * 3, TIMEOUT_F])
def test_a_search_that_timed_out_before_the_cpu(gpu_says: Says, text: str) -> None:
    (only,) = gpu_says(ollama_log=text + CPU)
    assert only.cause == "gpu_discovery_timeout"
    assert only.severity is Severity.ERROR


@pytest.mark.parametrize("text", [TIMEOUT_E + CUDA, TIMEOUT_F + CUDA, TIMEOUT_E + ROCM, CUDA + TIMEOUT_E])
def test_a_search_that_timed_out_beside_a_used_gpu_is_noise(gpu_says: Says, text: str) -> None:
    assert gpu_says(ollama_log=text) == []


def test_a_search_that_timed_out_and_nothing_more_is_no_trouble(gpu_says: Says) -> None:
    (only,) = gpu_says(ollama_log=TIMEOUT_E)
    assert only.severity is Severity.INFO


OVERRODE = (
    'level=WARN msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=-1\n'
    'level=WARN msg="if GPUs are not correctly discovered, unset and try again"\n'
)
HIDDEN = {
    "0.13": {"ollama_log": OVERRODE + CPU},
    "a UUID that is not there": {"ollama_log": OVERRODE.replace("-1", "GPU-00000000-0000") + CPU},
    "AMD": {"ollama_log": OVERRODE.replace("CUDA_VISIBLE_DEVICES=-1", 'ROCR_VISIBLE_DEVICES="-1"') + CPU},
    "only the configuration": {
        "ollama_log": 'msg="server config" env="map[CUDA_VISIBLE_DEVICES:-1 '
        "GPU_DEVICE_ORDINAL: "
        'HIP_VISIBLE_DEVICES: OLLAMA_DEBUG:false]"\n' + CPU
    },
}


@pytest.mark.parametrize("texts", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_variable_that_hides_the_card(gpu_says: Says, texts: dict[str, str]) -> None:
    first = gpu_says(**texts)[0]
    assert first.cause == "gpu_hidden_by_env"
    assert first.confidence >= 0.7


def test_a_variable_that_names_a_card_in_use_is_healthy(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=OVERRODE.replace("-1", "0") + CUDA) == []


def test_the_version_override_hides_nothing(gpu_says: Says) -> None:
    text = 'level=WARN msg="user overrode visible devices" HSA_OVERRIDE_GFX_VERSION=10.3.0\n'
    assert "gpu_hidden_by_env" not in [finding.cause for finding in gpu_says(ollama_log=text + CPU)]


def test_a_hidden_card_explains_the_time_out(gpu_says: Says) -> None:
    found = gpu_says(ollama_log=OVERRODE + TIMEOUT_E + CPU)
    assert found[0].cause == "gpu_hidden_by_env"


def test_a_number_without_a_card_is_a_wrong_choice(gpu_says: Says) -> None:
    text = "llama_model_load_from_file_impl: invalid value for main_gpu: 1 (available devices: 1)\n"
    (only,) = gpu_says(llama_server_log=text)
    assert only.cause == "wrong_gpu_selected"
    assert "number 1" in only.why


def test_the_small_card_at_work_beside_a_big_one_is_a_wrong_choice(gpu_says: Says) -> None:
    text = (
        "ggml_vulkan: 0 = Intel(R) UHD Graphics 770 (ADL-S GT1) (Intel open-source Mesa driver) | "
        "uma: 1 | fp16: 1 |\n"
        "ggml_vulkan: 1 = NVIDIA GeForce RTX 3060 (NVIDIA) | uma: 0 | fp16: 1 |\n"
        "llama_model_load_from_file_impl: using device Vulkan0 (Intel(R) UHD Graphics 770 (ADL-S "
        "GT1)) - 15000 MiB free\n"
    )
    (only,) = gpu_says(llama_server_log=text)
    assert only.cause == "wrong_gpu_selected"
    big = text.replace(
        "using device Vulkan0 (Intel(R) UHD Graphics 770 (ADL-S GT1))", "using device Vulkan1 (NVIDIA)"
    )
    assert gpu_says(llama_server_log=big) == []


def test_vulkan_chosen_for_the_small_card_beside_cuda_is_a_wrong_choice(gpu_says: Says) -> None:
    text = (
        'level=INFO msg="dropping integrated GPU; to enable, set OLLAMA_IGPU_ENABLE=1" id=1 library=Vulkan '
        'name=Vulkan1 description="NVIDIA GeForce RTX 4070"\n'
        + CUDA
        + 'level=INFO msg="selecting single GPU for '
        'llama-server model" library=Vulkan name=Vulkan0 description="Intel(R) UHD Graphics"\n'
    )
    assert [finding.cause for finding in gpu_says(ollama_log=text)] == ["wrong_gpu_selected"]


DROPPED = (
    'level=INFO msg="dropping integrated GPU; to enable, set OLLAMA_IGPU_ENABLE=1" id=0 '
    "library=Vulkan "
    'name=Vulkan0 description="Intel(R) Iris(R) Xe Graphics" type=iGPU\n'
)
IGPU = {
    "0.30": {"ollama_log": DROPPED + CPU},
    "0.30, by the sum": {
        "ollama_log": DROPPED + 'msg="vram-based default context" total_vram="0 B" default_num_ctx=4096\n'
    },
    "0.5": {
        "ollama_log": 'msg="unsupported Radeon iGPU detected skipping" id=0 total="512.0 MiB"\n'
        'msg="no compatible amdgpu devices detected"\nmsg="no compatible GPUs were discovered"\n' + CPU
    },
}


@pytest.mark.parametrize("texts", IGPU.values(), ids=IGPU.keys())
def test_an_integrated_gpu_alone_is_not_used(gpu_says: Says, texts: dict[str, str]) -> None:
    (only,) = gpu_says(**texts)
    assert only.cause == "igpu_not_used"
    assert only.severity is Severity.WARNING


def test_an_integrated_gpu_beside_a_used_card_is_healthy(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=DROPPED + CUDA) == []
    assert gpu_says(ollama_log=DROPPED + ROCM) == []


HEALTHY = {
    "a CPU-only host": {"ollama_log": 'msg="discovering available GPUs..."\n' + CPU + LOW_VRAM},
    "a CPU-only host of 2024": {
        "ollama_log": 'msg="looking for compatible GPUs"\nmsg="no compatible GPUs were discovered"\n' + CPU
    },
    "low vram mode": {"ollama_log": CUDA + LOW_VRAM.replace("0 B", "11.7 GiB")},
    "a driver's normal start": {
        "dmesg": "nvidia: module license 'NVIDIA' taints kernel.\nnvidia: "
        "module verification failed: "
        "signature and/or required key missing - tainting kernel\nNVRM: "
        "loading NVIDIA UNIX x86_64 "
        "Kernel Module  550.54.14\nnvidia-modeset: Loading NVIDIA Kernel "
        "Mode Setting Driver\n"
    },
    "amdgpu's normal start": {
        "dmesg": "amdgpu 0000:0b:00.0: amdgpu: ring gfx_0.0.0 uses VM inv eng "
        "0 on hub 0\n"
        "amdgpu 0000:0b:00.0: [drm] Cannot find any crtc or sizes\n"
    },
    "nvidia-smi": {
        "nvidia_smi": "| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4 |\n"
        "|   0  NVIDIA A100-SXM4-40GB        Off |   00000000:07:00.0 Off |             "
        "       0 |\n"
        "| N/A   42C    P8             14W /  350W |     344MiB / 40960MiB |      0%     "
        " Default |\n"
    },
    "ps": {
        "commands": "NAME  ID  SIZE  PROCESSOR  CONTEXT UNTIL\ngemma3:4b  a2af6cc3eb7f  5.5 GB  "
        "100% GPU  4096  4 minutes"
    },
}


@pytest.mark.parametrize("texts", HEALTHY.values(), ids=HEALTHY.keys())
def test_healthy_texts_bring_no_finding(gpu_says: Says, texts: dict[str, str]) -> None:
    assert gpu_says(**texts) == []
