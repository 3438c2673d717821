"""«Out of memory» on the card: at load, for one buffer, at work; and where it mended itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding, Severity

First = Callable[..., Finding]
Causes = Callable[..., list[str]]
Says = Callable[..., list[Finding]]

STARTED = 'time=2026-02-01T10:00:00.000Z level=INFO msg="llama runner started in 3.06 seconds"\n'
MALLOC = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {} MiB on device 0: cudaMalloc failed: out of"
    " memory\n"
)

ON_LOAD = {
    "weights, 0.5": (
        MALLOC.format("81656.95") + "llama_model_load: error loading model: unable to allocate CUDA0"
        ' buffer\nllama_load_model_from_file: failed to load model\nlevel=ERROR msg="error loading llama'
        ' server" error="llama runner process has terminated: error loading model: unable to allocate CUDA0'
        ' buffer"\n'
    ),
    "weights, 2024": (
        MALLOC.format("5099.12")
        + "llama_model_load: error loading model: unable to allocate backend buffer\nCUDA error: out of"
        " memory\n  current device: 4, in function ggml_backend_cuda_host_buffer_free_buffer\n"
    ),
    "weights, b11434": (
        "ggml_backend_buft_alloc_buffer_n_default: failed to allocate CUDA0 buffer of size 4357872640\n"
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
    ),
    "Vulkan's weights": (
        "ggml_vulkan: Device memory allocation of size 4294967296 failed.\n"
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n"
        "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 4294967296\n"
        "llama_model_load: error loading model: unable to allocate Vulkan0 buffer\n"
    ),
    "cache": (
        MALLOC.format("16384.00")
        + "alloc_tensor_range: failed to allocate CUDA0 buffer of size 17179869184\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n"
        "srv    load_model: failed to load model, 'x.gguf'\n"
    ),
    "cache, 2024": (
        MALLOC.format("2048.00") + "llama_kv_cache_init: failed to allocate buffer for kv cache\n"
        "llama_new_context_with_model: llama_kv_cache_init() failed for self-attention cache\n"
    ),
    "cuBLAS right after the buffers": (
        "llama_new_context_with_model:      CUDA0 compute buffer size =   296.02 MiB\n"
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED\n"
        "  current device: 0, in function cublas_handle at common.cuh:826\n"
    ),
    "what a client is told": "Error: llama runner process has terminated: cudaMalloc failed: out of memory\n",
    "cuBLAS in words": (
        "llama_context:      CUDA0 compute buffer size =   296.02 MiB\n"
        "CUDA error: the resource allocation failed\n  current device: 0, in function cublas_handle\n"
    ),
    "era E, its panic": (
        "panic: insufficient memory - required allocations: {InputWeights:550502400A CPU:{Name:CPU}}\n"
    ),
    "era E": (
        'level=INFO msg="Load failed" model=/m/blobs/sha256-aa error="memory layout cannot be allocated"\n'
    ),
}


@pytest.mark.parametrize("log", ON_LOAD.values(), ids=ON_LOAD)
@pytest.mark.parametrize("kind", ["ollama_log", "docker_log", "client_error"])
def test_what_fails_while_it_is_loaded(first: First, log: str, kind: str) -> None:
    finding = first(**{kind: log})
    assert finding.cause == "vram_oom_on_load"
    assert finding.severity is Severity.ERROR


def test_the_steps_against_it_come_in_the_house_s_order(first: First) -> None:
    steps = " | ".join(command.text for command in first(ollama_log=ON_LOAD["weights, 0.5"]).remedy.commands)
    assert steps.index("narthex plan") < steps.index("num_ctx") < steps.index("num_gpu")
    assert steps.index("num_gpu") < steps.index("num_batch") < steps.index("narthex tune")


def test_the_size_that_was_asked_for_is_told(first: First) -> None:
    assert "79.7 GiB" in first(ollama_log=ON_LOAD["weights, 0.5"]).why


ONE_BUFFER = {
    "four copies": (
        "llama_new_context_with_model: pipeline parallelism enabled (n_copies=4)\n"
        + MALLOC.format("279356.51")
        + "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 292926534144\n"
        "llama_new_context_with_model: failed to allocate compute buffers\n"
    ),
    "ROCm": (
        MALLOC.format("826.00")
        + "ggml_gallocr_reserve_n: failed to allocate ROCm0 buffer of size 866125824\n"
        "llama_new_context_with_model: failed to allocate compute buffers\n"
    ),
    "b11434": (
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 9668469760\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers\n"
    ),
    "Vulkan's limit": (
        "ggml_vulkan: Requested buffer size exceeds device memory allocation limit: ErrorOutOfDeviceMemory\n"
    ),
    "Vulkan's limit, newer": (
        "ggml_vulkan: Requested buffer size exceeds device buffer size limit: ErrorOutOfDeviceMemory\n"
    ),
    "Vulkan's size alone": "ggml_vulkan: Device memory allocation of size 17368219904 failed.\n",
    "MLX": (
        "[metal::malloc] Attempting to allocate 12345678901 bytes which is greater than the maximum allowed "
        "buffer size of 9534832640 bytes.\n"
    ),
    "SYCL": (
        "ggml_backend_sycl_buffer_type_alloc_buffer: can't malloc 24189255811072 Bytes memory on device\n"
    ),
    "beyond any card": MALLOC.format("1130415.93"),
}


@pytest.mark.parametrize("log", ONE_BUFFER.values(), ids=ONE_BUFFER)
@pytest.mark.parametrize("kind", ["llama_server_log", "ollama_log", "client_error"])
def test_one_working_buffer_that_nobody_can_give(first: First, log: str, kind: str) -> None:
    assert first(**{kind: log}).cause == "compute_buffer_oom"


def test_the_copies_are_named_and_their_remedy_comes_first(first: First) -> None:
    finding = first(llama_server_log=ONE_BUFFER["four copies"])
    assert "4 copies" in finding.why
    assert "MAX_COPIES" in finding.remedy.commands[0].text


AT_WORK = {
    "the pool grows": (
        STARTED + "CUDA error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:512\n"
        "  cuMemCreate(&handle, reserve_size, &prop, 0)\n"
    ),
    "without its past": (
        "CUDA error: out of memory\n  current device: 1, in function alloc at ggml-cuda.cu:648\n"
        "  cuMemSetAccess(start_ptr, reserve_size, &access, 1)\n"
    ),
    "ROCm": (
        STARTED + "ROCm error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:390\n"
    ),
    "Metal": (
        "ggml_metal_graph_compute: command buffer 3 failed with status 5\n"
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
    ),
    "cuBLAS at the first request": (
        STARTED + "CUDA error: CUBLAS_STATUS_ALLOC_FAILED\n"
        "  current device: 0, in function cublas_handle at common.cuh:826\n"
    ),
    "Ollama's own word": (
        'level=WARN msg="runtime OOM detected; expiring loaded models to clear memory before next request"\n'
    ),
    "relayed": "llama runner process no longer running: 2 CUDA error: out of memory\n",
    "era F": '{"error":"an error was encountered while running the model: CUDA error: out of memory"}\n',
    "after an answer": (
        '[GIN] 2026/02/01 - 10:00:20 | 200 |  14.39s |  127.0.0.1 | POST     "/api/chat"\nCUDA error: out of'
        " memory\n  current device: 0, in function ggml_cuda_compute_forward at ggml-cuda.cu:2366\n"
    ),
}


@pytest.mark.parametrize("log", AT_WORK.values(), ids=AT_WORK)
def test_what_fails_while_it_works(first: First, log: str) -> None:
    assert first(ollama_log=log).cause == "vram_oom_in_generation"


def test_a_warm_up_that_fails_is_a_load_that_fails(first: First) -> None:
    log = (
        "common_init_from_params: warming up the model with an empty run - please wait ...\n"
        "CUDA error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:512\n"
        "main: exiting due to model loading error\n"
    )
    assert first(llama_server_log=log).cause == "vram_oom_on_load"


MENDED = {
    "without pipeline parallelism": (
        MALLOC.format("12710.31")
        + "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 13327728640\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "llama_context: compute buffer allocation failed, retrying without pipeline parallelism\n"
        "main: server is listening on http://127.0.0.1:8080 - starting the main loop\n"
    ),
    "another layout": (
        'level=INFO msg=load request="{Operation:alloc LoraPath:[] Parallel:1 KvSize:8192}"\n'
        + MALLOC.format("9220.57")
        + "ggml_gallocr_reserve_n: failed to allocate CUDA1 buffer of size 9668469760\n"
        'level=INFO msg="model layout did not fit, applying backoff" backoff=0.10\n' + STARTED
    ),
    "less context": (
        MALLOC.format("9220.57") + "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        'level=WARN msg="llama-server load failed; reducing automatic context and retrying once"\n'
        'level=INFO msg="llama-server started in 2.31 seconds"\n'
    ),
}


@pytest.mark.parametrize("log", MENDED.values(), ids=MENDED)
def test_a_second_try_that_went_well_is_told_as_harmless(says: Says, log: str) -> None:
    found = says(ollama_log=log)
    assert [(one.cause, one.severity) for one in found] == [("vram_oom_on_load", Severity.INFO)]


def test_a_second_try_that_failed_too_is_no_comfort(first: First) -> None:
    log = MENDED["less context"].replace("started in 2.31 seconds", "terminated") + (
        MALLOC.format("8000.00") + "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        'level=INFO msg="Load failed" model=/m/blobs/sha256-aa error="unable to allocate CUDA0 buffer"\n'
    )
    assert first(ollama_log=log).severity is Severity.ERROR


def test_a_later_load_that_went_well_makes_it_less_grave(first: First) -> None:
    finding = first(ollama_log=ON_LOAD["weights, 0.5"] + "\n" * 20 + STARTED)
    assert finding.severity is Severity.WARNING
    assert finding.confidence <= 0.6


HARMLESS = {
    "Vulkan's pinned memory": (
        "ggml_vulkan: Failed to allocate pinned memory.\n"
        "ggml_vulkan: pinned memory: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n" + STARTED
    ),
    "pinned memory": (
        "ggml_cuda_host_malloc: failed to allocate 500.00 MiB of pinned memory: out of memory\n" + STARTED
    ),
    "a load": (
        "load_tensors: offloaded 33/33 layers to GPU\n"
        "llama_context: pipeline parallelism enabled (n_copies=4)\n" + STARTED
    ),
}


@pytest.mark.parametrize("log", HARMLESS.values(), ids=HARMLESS)
def test_harmless_lines_bring_no_finding(causes: Causes, log: str) -> None:
    assert causes(ollama_log=log) == []


def test_comfyui_that_tells_cudas_words_without_pytorchs_ran_out_of_memory(first: First) -> None:
    log = (
        "Requested to load WAN21\nloaded partially; 5167.08 MB usable, 4633.39 MB offloaded\n"
        "!!! Exception during processing !!! CUDA error: out of memory\n"
    )
    assert first(comfyui_log=log).cause == "comfyui_vram_oom"


def test_a_small_buffer_that_vulkan_could_not_get_is_no_single_large_one(first: First) -> None:
    log = (
        "ggml_vulkan: Device memory allocation of size 118497280 failed.\n"
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n"
    )
    assert first(llama_server_log=log).cause == "vram_oom_on_load"


def test_a_cache_that_failed_is_not_certainly_the_cards_where_no_line_names_it(first: First) -> None:
    bare = "llama_kv_cache_init: failed to allocate buffer for kv cache\n"
    assert first(llama_server_log=bare).confidence == 0.6
    assert first(llama_server_log=MALLOC.format("9220.57") + bare).confidence > 0.9


@pytest.mark.parametrize(
    "text",
    [
        "ggml_vulkan: Failed to allocate pinned memory.\n"
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n",
        "ggml_backend_sched_alloc_splits: failed to allocate graph, reserving (backend_ids_changed = 1)\n",
    ],
)
def test_what_the_engine_does_without_is_no_failure(causes: Causes, text: str) -> None:
    assert causes(llama_server_log=text) == []


def test_a_graph_that_was_reserved_in_vain_is_a_failure(causes: Causes) -> None:
    text = (
        "ggml_backend_sched_alloc_splits: failed to allocate graph, reserving (backend_ids_changed = 1)\n"
        + MALLOC.format("9866.00")
        + "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 10345253120\n"
    )
    assert causes(llama_server_log=text)[0] == "compute_buffer_oom"
