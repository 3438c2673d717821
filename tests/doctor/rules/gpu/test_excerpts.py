"""Excerpts: lines that were cut, broken or glued, and lines that only resemble a fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]

DROPPED = "dropping integrated GPU; to enable, set OLLAMA_IGPU_ENABLE=1"
NO_CUDA = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n"
BENCH = (
    "| model | size | params | backend | ngl | test | t/s |\n"
    "| --- | ---: | ---: | --- | --: | ---: | ---: |\n"
    "| llama 7B Q4_0 | 3.56 GiB | 6.74 B | CUDA | {} | pp512 | 61.70 ± 0.42 |\n"
    "| llama 7B Q4_0 | 3.56 GiB | 6.74 B | CUDA | {} | tg128 | 14.22 ± 0.05 |\n"
)


@pytest.mark.parametrize(
    "text",
    [
        'level=WARN source=runner.go:485\n  msg="user overrode visible devices" GGML_VK_VISIBLE_DEVICES=1\n'
        'msg="inference compute"\n    id=cpu library=cpu compute=""\n',
        'msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=3\nid=cpu library=cpu compute=""\n',
        "user overrode visible devices HIP_VISIBLE_DEVICES=1\ninference compute\n    id=cpu library=cpu\n",
        'ollama-1  | level=WARN msg="user overrode visible devices"\nollama-1  |     ROCR_VISIBLE_DEVICES=2\n'
        'ollama-1  | level=INFO msg="inference compute"\nollama-1  |     id=cpu library=cpu\n',
    ],
    ids=["a line each", "no message before the fields", "no keys", "under Compose"],
)
def test_a_hidden_gpu_is_seen_in_broken_lines(gpu_says: Says, text: str) -> None:
    assert gpu_says(ollama_log=text)[0].cause == "gpu_hidden_by_env"


def test_an_override_that_works_is_no_fault_in_broken_lines(gpu_says: Says) -> None:
    text = 'level=WARN msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=0\nmsg="inference compute"\n'
    used = '    id=GPU-1 library=CUDA compute=8.9 name=CUDA0 total="12.0 GiB" available="11.2 GiB"\n'
    assert gpu_says(ollama_log=text + used) == []


def test_rocm_that_filters_cards_twice_names_the_second_variable(gpu_says: Says) -> None:
    env = (
        'msg=subprocess environment="[PATH=/bin HIP_VISIBLE_DEVICES={} ROCR_VISIBLE_DEVICES=GPU-7685bd29]"\n'
    )
    none = "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected\n"
    found = gpu_says(ollama_log=env.format(1) + none)[0]
    assert found.cause == "gpu_hidden_by_env"
    assert "HIP_VISIBLE_DEVICES" in found.title
    assert gpu_says(ollama_log=env.format(0) + none)[0].cause == "gpu_not_visible"


@pytest.mark.parametrize(
    "text",
    [
        f'msg="{DROPPED}"\n    id=0 library=Vulkan description="Intel(R) Arc(TM) 140V GPU (16GB)"\n',
        f'{DROPPED}\nid=0 library=Vulkan compute=0.0\nname=Vulkan0\ndescription="Intel(R) Iris(R) Xe"\n',
    ],
    ids=["fields on the next line", "a field a line"],
)
def test_a_dropped_integrated_gpu_alone_is_said_with_modest_confidence(gpu_says: Says, text: str) -> None:
    found = gpu_says(ollama_log=text)[0]
    assert found.cause == "igpu_not_used"
    assert found.confidence < 0.6
    assert "Intel(R)" in found.why


@pytest.mark.parametrize(
    "beside",
    [
        'inference compute\n    id=GPU-a library=CUDA name=CUDA0 description="NVIDIA GeForce RTX 4090"\n',
        "load_tensors: offloaded 33/33 layers to GPU\n",
        "llama_model_load_from_file_impl: using device Vulkan0 (AMD Radeon RX 7900 XTX) - 24000 MiB free\n",
    ],
)
def test_an_integrated_gpu_dropped_beside_one_in_use_is_no_fault(gpu_says: Says, beside: str) -> None:
    text = f'msg="{DROPPED}"\n    id=0 library=Vulkan description="Intel(R) UHD Graphics 770"\n'
    assert gpu_says(ollama_log=text + beside) == []


def test_a_card_taken_for_integrated_is_a_wrong_choice(gpu_says: Says) -> None:
    dropped = f'level=INFO msg="{DROPPED}" id=1 library=Vulkan description="NVIDIA GeForce RTX 4070"\n'
    small = 'level=INFO msg="inference compute" id=0 library=Vulkan description="Intel(R) UHD Graphics"\n'
    found = gpu_says(ollama_log=dropped + small)
    assert [row.cause for row in found] == ["wrong_gpu_selected"]
    assert "RTX 4070" in found[0].why
    cuda = 'level=INFO msg="inference compute" id=GPU-a library=CUDA description="NVIDIA GeForce RTX 4070"\n'
    assert gpu_says(ollama_log=dropped + cuda) == []  # only its double under Vulkan was dropped


@pytest.mark.parametrize(
    "texts",
    [
        {"commands": "$ llama-bench -m m.gguf -ngl 0\n" + NO_CUDA},
        {"commands": NO_CUDA + BENCH.format(0, 0)},
        {"commands": "docker run -e LLAMA_ARG_N_GPU_LAYERS=0 llama.cpp:server\n", "docker_log": NO_CUDA},
        {
            "commands": "$ CUDA_VISIBLE_DEVICES=-1 llama-server -m m.gguf --n-gpu-layers 0\n",
            "llama_server_log": NO_CUDA,
        },
    ],
    ids=["typed", "llama-bench's table", "in the environment", "hidden besides"],
)
def test_a_run_that_wants_the_cpu_misses_no_gpu(gpu_says: Says, texts: dict[str, str]) -> None:
    assert gpu_says(**texts) == []


@pytest.mark.parametrize(
    "texts",
    [
        {"commands": "$ llama-cli -m m.gguf -ngl 99\n" + NO_CUDA},
        {"commands": "$ llama-bench -m m.gguf -ngl 0,99\n" + NO_CUDA + BENCH.format(0, 99)},
        {"ollama_log": 'msg="starting runner" cmd="ollama runner --model /m --n-gpu-layers 0"\n' + NO_CUDA},
    ],
    ids=["layers asked for", "some with layers", "Ollama's own start"],
)
def test_layers_that_are_asked_for_or_ollamas_own_zero_are_no_wish(
    gpu_says: Says, texts: dict[str, str]
) -> None:
    assert gpu_says(**texts)[0].cause == "gpu_not_visible"


def test_a_code_glued_to_the_next_line_is_read(gpu_says: Says) -> None:
    text = 'cuda driver library failed to get device context {}time=2025-01-29T03:21:43Z level=WARN msg="x"\n'
    assert gpu_says(ollama_log=text.format(999))[0].cause == "uvm_module_broken"
    assert gpu_says(ollama_log=text.format(46))[0].cause == "gpu_not_visible"


def test_windows_has_no_nvidia_uvm(gpu_says: Says) -> None:
    error = "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment\n"
    assert gpu_says(comfyui_log=error)[0].cause == "uvm_module_broken"
    assert gpu_says(comfyui_log="** Platform: Windows\n" + error) == []


@pytest.mark.parametrize(
    ("card", "cc", "out"), [("Quadro M2000M", "5.0", True), ("NVIDIA GB10", "12.1", False)]
)
def test_pytorchs_range_of_generations_decides(gpu_says: Says, card: str, cc: str, out: bool) -> None:
    text = (
        f"    Found GPU0 {card} which is of cuda capability {cc}.\n"
        "    Minimum and Maximum cuda capability supported by this version of PyTorch is\n (6.1) - (12.0)\n"
    )
    found = gpu_says(comfyui_log=text)
    assert [row.cause for row in found] == (["gpu_arch_not_in_build"] if out else [])


def test_a_rocm_that_finds_no_device_is_not_called_unsupported(gpu_says: Says) -> None:
    found = gpu_says(ollama_log="rocBLAS error: Could not initialize Tensile host: No devices found\n")
    assert [row.cause for row in found] == ["gpu_not_visible"]


def test_a_typographic_apostrophe_changes_nothing(gpu_says: Says) -> None:
    said = "NVIDIA-SMI has failed because it couldn‘t communicate with the NVIDIA driver.\n"
    found = gpu_says(client_error=said)[0]
    assert (found.cause, found.severity) == ("driver_not_loaded", Severity.CRITICAL)


RESTARTED = (
    'time=2027-01-05T09:40:35Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.12.9)"\n'
    'time=2027-01-05T09:40:36Z level=INFO msg="inference compute" id=0 library={} name=0 total="16.0 GiB"\n'
    '[GIN] 2027/01/05 - 09:41:10 | 200 |  2.1s |       127.0.0.1 | POST     "/api/chat"\n'
)


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("HW Exception by GPU node-1 (Agent handle: 0x7f) reason :GPU Hang\n", "ROCm"),
        ("CUDA error: no kernel image is available for execution on the device\n", "CUDA"),
        (
            'msg=subprocess environment="[HIP_VISIBLE_DEVICES=1 ROCR_VISIBLE_DEVICES=GPU-1]"\n'
            "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected\n",
            "ROCm",
        ),
    ],
    ids=["ROCm fault", "no kernel", "filtered twice"],
)
def test_a_fault_before_a_start_that_worked_is_no_trouble(gpu_says: Says, text: str, library: str) -> None:
    assert [row.is_trouble for row in gpu_says(ollama_log=text)] == [True]
    assert not any(row.is_trouble for row in gpu_says(ollama_log=text + RESTARTED.format(library)))


def test_amdgpu_resets_by_the_desktop_are_a_suspicion(gpu_says: Says) -> None:
    text = (
        "kernel: amdgpu 0000:08:00.0: ring gfx_0.0.0 timeout, signaled seq=5, emitted seq=7\n"
        "kernel: amdgpu 0000:08:00.0:  Process {0} pid 3503 thread {0}:cs0 pid 3539\n"
    )
    assert gpu_says(dmesg=text.format("llama-server"))[0].confidence >= 0.8
    assert gpu_says(dmesg=text.format("kwin_wayland"))[0].confidence < 0.5


@pytest.mark.parametrize(
    "said",
    ["Failed to initialize NVML: Insufficient Permissions", "Failed to initialize NVML: Unknown Error"],
)
def test_a_fresh_container_that_may_not_open_the_card_never_could(gpu_says: Says, said: str) -> None:
    found = gpu_says(commands=f"$ docker run --rm --gpus all ubuntu nvidia-smi\n{said}\n")
    assert [row.cause for row in found] == ["gpu_not_visible"]
    assert any("no-cgroups" in step.text for step in found[0].remedy.commands)


def test_a_bad_access_without_the_kernels_log_is_said_and_the_log_asked_for(gpu_says: Says) -> None:
    said = "Error: CUDA error: an illegal memory access was encountered\n"
    found = gpu_says(client_error=said)[0]
    assert found.cause == "gpu_xid_app_fault"
    assert 0.5 < found.confidence < 0.7
    assert "kernel log" in found.why
    quiet = gpu_says(client_error=said, dmesg="[1.0] usb 1-1: new high-speed USB device\n")[0]
    assert quiet.confidence < 0.5
    lost = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"
    assert [row.cause for row in gpu_says(client_error=said, dmesg=lost)] == ["gpu_fell_off_bus"]


def test_vulkans_lost_device_is_a_suspicion(gpu_says: Says) -> None:
    found = gpu_says(llama_server_log="  what():  vk::Queue::submit: ErrorDeviceLost\n")[0]
    assert (found.cause, found.confidence < 0.5) == ("gpu_xid_app_fault", True)


@pytest.mark.parametrize("pending", ["Yes", "No"])
def test_rows_that_wait_for_a_reset(gpu_says: Says, pending: str) -> None:
    rows = f"    Remapped Rows\n        Correctable Error : 0\n        Pending           : {pending}\n"
    assert [row.cause for row in gpu_says(nvidia_smi=rows)] == (["gpu_hw_ecc"] if pending == "Yes" else [])


def test_other_words_for_a_missing_driver_or_card(gpu_says: Says) -> None:
    legacy = "NVRM:  supported through the NVIDIA 470.xx Legacy drivers. Please\n"
    assert gpu_says(dmesg=legacy)[0].cause == "driver_not_loaded"
    wsl = "Failed to initialize NVML: GPU access blocked by the operating system\n"
    assert gpu_says(commands=wsl)[0].cause == "gpu_not_visible"
    cpu_build = "AssertionError: Torch not compiled with CUDA enabled\n"
    assert gpu_says(comfyui_log=cpu_build)[0].cause == "gpu_arch_not_in_build"
