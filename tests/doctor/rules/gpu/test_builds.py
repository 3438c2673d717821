"""The build and the card: no code for it, an AMD card outside ROCm's list, ROCm that fails below."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding

Says = Callable[..., list[Finding]]

CPU = (
    'level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu total="31 GiB" '
    'available="20 GiB"\n'
)
CUDA = (
    'level=INFO msg="inference compute" id=0 library=CUDA compute=8.9 name=CUDA0 '
    'description="NVIDIA GeForce RTX 4070" '
    'total="11.7 GiB" available="11.2 GiB"\n'
)
ROCM = (
    'level=INFO msg="inference compute" id=0 library=ROCm compute=gfx1100 name=ROCm0 '
    'description="AMD Radeon RX 7900" '
    'total="24.0 GiB" available="23.8 GiB"\n'
)
LOW_VRAM = 'msg="entering low vram mode" "total vram"="0 B" threshold="20.0 GiB"\n'

NO_CODE = {
    "no image": "CUDA error: no kernel image is available for execution on the device\n",
    "invalid image": "ggml_cuda_compute_forward: MUL failed\nCUDA error: device kernel image is invalid\n",
    "ROCm": "ROCm error: invalid device function\n",
    "HIP": "hipErrorNoBinaryForGpu: Unable to find code object for all current devices!\n",
    "0.30's probe": 'msg="skipping CUDA device — compute capability not in compiled architectures" '
    'device="NVIDIA GeForce GTX 970" cc=520 archs="[750 800 860]"\n' + CPU,
    "an old card": 'msg="[0] CUDA GPU is too old. Compute Capability detected: 3.5"\n' + CPU,
    "PyTorch": "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the "
    "current PyTorch "
    "installation.\n",
}


@pytest.mark.parametrize("text", NO_CODE.values(), ids=NO_CODE.keys())
def test_a_build_without_code_for_the_card(gpu_says: Says, text: str) -> None:
    (only,) = gpu_says(llama_server_log=text)
    assert only.cause == "gpu_arch_not_in_build"


def test_a_library_that_is_left_out_for_another_is_healthy(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=NO_CODE["0.30's probe"].replace(CPU, CUDA)) == []


UNSUPPORTED = {
    "0.5": {
        "ollama_log": 'level=WARN msg="amdgpu is not supported (supported types:[gfx1030 '
        'gfx1100 gfx1101])" '
        "gpu_type=gfx1103 gpu=0 library=/usr/lib/ollama/rocm\n" + CPU
    },
    "0.1.32": {"ollama_log": 'msg="amdgpu [0] gfx1103 is not supported by /tmp/rocm [gfx1030 gfx1100]"\n'},
    "0.5 on Windows": {
        "ollama_log": 'msg="amdgpu is not supported (supported types:[])" gpu_type=gfx1100 gpu=0\n' + CPU
    },
    "too old": {"ollama_log": 'level=WARN msg="amdgpu too old gfx803" gpu=0\n' + CPU},
    "0.12's probe": {
        "ollama_log": 'level=INFO msg="failure during GPU discovery" '
        'OLLAMA_LIBRARY_PATH="[/usr/lib/ollama '
        '/usr/lib/ollama/rocm]" extra_envs="map[GGML_CUDA_INIT:1]" '
        'error="runner crashed"\n' + LOW_VRAM
    },
    "0.30": {
        "ollama_log": 'level=WARN msg="dropping ROCm device — no rocblas support for gfx '
        'target" device=ROCm0 '
        "gfx_target=gfx1036\n" + CPU
    },
    "rocBLAS": {
        "ollama_log": "rocBLAS error: Cannot read "
        "/usr/local/lib/ollama/rocm/rocblas/library/TensileLibrary.dat: "
        "Illegal seek for GPU arch : gfx1103\n"
    },
    "ROCm's tools see it": {
        "ollama_log": LOW_VRAM,
        "commands": "$ rocminfo | grep Name.*gfx\nName: gfx1201\n",
    },
}


@pytest.mark.parametrize("texts", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_an_amd_card_outside_rocms_list(gpu_says: Says, texts: dict[str, str]) -> None:
    first = gpu_says(**texts)[0]
    assert first.cause == "rocm_gpu_unsupported"
    assert first.confidence >= 0.6


def test_the_cards_name_is_told(gpu_says: Says) -> None:
    assert "gfx1103" in gpu_says(**UNSUPPORTED["0.5"])[0].title


REFUSED_IGPU = 'level=WARN msg="amdgpu is not supported (supported types:[gfx1100])" gpu_type=gfx1036 gpu=1\n'
CRASHED = (
    'msg="failure during GPU discovery" OLLAMA_LIBRARY_PATH="[/usr/lib/ollama/rocm]" error="runner crashed"\n'
)


def test_a_refused_integrated_gpu_beside_a_used_card_is_healthy(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=REFUSED_IGPU + ROCM) == []


def test_rocms_probe_that_crashes_on_an_nvidia_machine_is_healthy(gpu_says: Says) -> None:
    assert gpu_says(ollama_log=CRASHED + CUDA) == []


def test_a_crashed_probe_of_cuda_is_not_rocms(gpu_says: Says) -> None:
    text = CRASHED.replace("rocm", "cuda_v12") + CPU
    assert "rocm_gpu_unsupported" not in [finding.cause for finding in gpu_says(ollama_log=text)]


def test_hipblaslt_without_its_file_is_slower_and_no_fault(gpu_says: Says) -> None:
    text = (
        ROCM + "rocblaslt error: Cannot read "
        "/usr/lib/hipblaslt/library/TensileLibrary_lazy_gfx1201.dat: No such file or "
        "directory\nload_tensors: offloaded 33/33 layers to GPU\n"
    )
    assert gpu_says(ollama_log=text) == []


FAULTS = {
    "memory": {
        "ollama_log": "Memory access fault by GPU node-1 (Agent handle: 0x5635) on address "
        "0x7f18. Reason: Page not "
        "present or supervisor privilege.\n"
    },
    "kernel": {
        "dmesg": "amdgpu 0000:0b:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:24 vmid:8 "
        "pasid:32770)\n"
        "amdgpu 0000:0b:00.0: amdgpu: GCVM_L2_PROTECTION_FAULT_STATUS:0x00801A30\n"
    },
    "ring": {
        "dmesg": "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring comp_1.0.1 timeout, signaled "
        "seq=3, emitted seq=5\n"
        "amdgpu 0000:03:00.0: amdgpu: GPU reset begin!\n"
    },
    "queue": {
        "comfyui_log": ":0:rocdevice.cpp: Callback: Queue 0x7fb aborting with error : "
        "HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION\n"
    },
    "memory that is free": {
        "ollama_log": ROCM + "ggml_backend_cuda_buffer_type_alloc_buffer: "
        "allocating 3577.56 MiB on "
        "device 0: cudaMalloc failed: out of memory\n"
    },
    "PyTorch": {
        "comfyui_log": "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 "
        "MiB. GPU 0 has a total "
        "capacity of 15.98 GiB of which 15.09 GiB is free.\n"
    },
    "no right": {
        "ollama_log": 'level=ERROR msg="amdgpu devices detected but permission problems '
        "block access: permissions "
        'not set up properly"\n' + CPU
    },
}


@pytest.mark.parametrize("texts", FAULTS.values(), ids=FAULTS.keys())
def test_rocm_that_fails_below(gpu_says: Says, texts: dict[str, str]) -> None:
    (only,) = gpu_says(**texts)
    assert only.cause == "rocm_host_fault"


def test_memory_that_is_really_full_is_another_cause(gpu_says: Says) -> None:
    full = "allocating 26000.00 MiB on device 0: cudaMalloc failed: out of memory\n"
    assert gpu_says(ollama_log=ROCM + full) == []
    late = (
        "load_tensors:        ROCm0 model buffer size = 21000.00 MiB\n"
        "allocating 3577.56 MiB on device 0: cudaMalloc failed: out of memory\n"
    )
    assert gpu_says(ollama_log=ROCM + late) == []


def test_a_missing_right_is_told_with_the_groups(gpu_says: Says) -> None:
    (only,) = gpu_says(**FAULTS["no right"])
    assert any("render" in step.text for step in only.remedy.commands)
