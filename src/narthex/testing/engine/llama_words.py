"""What llama-server says of itself and while it loads, in the words of builds from autumn 2025 on."""

from __future__ import annotations

from narthex.testing.engine.manner import Manner

VERSION = "version: 7000 (fa4ee12)\nbuilt with GNU 11.4.0 for Linux x86_64\n"
HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
-tb,   --threads-batch N                number of threads to use during batch and prompt processing
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
-n,    --predict, --n-predict N         number of tokens to predict (default: -1, -1 = infinity)
-b,    --batch-size N                   logical maximum batch size (default: 2048)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
-np,   --parallel N                     number of server slots (default: -1, -1 = auto)
--mmap, --no-mmap                       whether to memory-map model (default: enabled)
--list-devices                          print list of available devices and exit
-ncmoe, --n-cpu-moe N                   keep the Mixture of Experts weights of the first N layers in the CPU
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
-m,    --model FNAME                    model path to load
-a,    --alias STRING                   set alias for model name (to be used by REST API)
-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold. Messages with a higher verbosity will be
                                        ignored. Values:
                                         - 0: generic output
                                         - 1: error
                                         - 2: warning
                                         - 3: info
                                         - 4: trace (more info)

----- example-specific params -----

-cram, --cache-ram N                    set the maximum cache size in MiB (default: 8192, -1 - no limit)
--host HOST                             ip address to listen, or bind to an UNIX socket
--port PORT                             port to listen (default: 8080)
--embedding, --embeddings               restrict to only support embedding use case
--slots, --no-slots                     expose slots monitoring endpoint (default: enabled)
--no-repack                             disable weight repacking
--no-webui                              Disable the Web UI
--jinja, --no-jinja                     whether to use jinja template engine for chat
"""
_MIB = 1 << 20


def devices(total: int, free: int) -> str:
    """The answer to ``--list-devices``."""
    row = f"  CUDA0: NVIDIA Fake ({total // _MIB} MiB, {free // _MIB} MiB free)\n" if total else "  (none)\n"
    return f"Available devices:\n{row}"


def begins(model: str, manner: Manner) -> list[str]:
    """Before the weights."""
    return [
        "build: 7000 (fa4ee12) with GNU 11.4.0 for Linux x86_64",
        "main: loading model",
        f"srv    load_model: loading model '{model}'",
        "llama_model_load_from_file_impl: using device CUDA0 (NVIDIA Fake) (0000:01:00.0)",
        f"llama_model_loader: loaded meta data with 33 key-value pairs and 236 tensors from {model} "
        "(version GGUF V3 (latest))",
        f"print_info: n_ctx_train           = {manner.context_train}",
        "load_tensors: loading model tensors, this can take a while... (mmap = true)",
    ]


def weights(on_card: int, beside: int, layers: int, total: int) -> list[str]:
    """Once the weights have their place; sizes in bytes."""
    return [
        f"load_tensors: offloading {max(0, layers - 1)} repeating layers to GPU",
        f"load_tensors: offloaded {layers}/{total} layers to GPU",
        *([f"load_tensors:   CPU_Mapped model buffer size = {_mib(beside)}"] if beside else []),
        *([f"load_tensors:        CUDA0 model buffer size = {_mib(on_card)}"] if on_card else []),
    ]


def context(num_ctx: int, slots: int, ubatch: int, cache: int, compute: int, *, card: bool) -> list[str]:
    """Once the context stands. ``num_ctx``: of all slots together."""
    place = "CUDA0" if card else "  CPU"
    return [
        "llama_context: constructing llama_context",
        f"llama_context: n_seq_max     = {slots}",
        f"llama_context: n_ctx         = {num_ctx}",
        f"llama_context: n_ctx_seq     = {num_ctx // slots}",
        f"llama_context: n_ubatch      = {ubatch}",
        "llama_context: flash_attn    = enabled",
        f"llama_kv_cache:      {place} KV buffer size = {_mib(cache)}",
        f"llama_context:      {place} compute buffer size = {_mib(compute)}",
    ]


def listens(port: int, num_ctx: int, slots: int) -> list[str]:
    """At the end of a load that went well."""
    return [
        *(
            f"slot   load_model: id  {slot} | task -1 | new slot, n_ctx = {num_ctx // slots}"
            for slot in range(slots)
        ),
        "main: model loaded",
        f"main: server is listening on http://127.0.0.1:{port} - starting the main loop",
        "srv  update_slots: all slots are idle",
    ]


def no_room(model: str, count: int, *, cache: bool) -> list[str]:
    """The card refused. ``cache``: the weights were in already."""
    lines = [
        f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {_mib(count)} on device 0: "
        "cudaMalloc failed: out of memory",
        f"alloc_tensor_range: failed to allocate CUDA0 buffer of size {count}",
    ]
    if cache:
        return [
            *lines,
            "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            f"common_init_from_params: failed to create context with model '{model}'",
            f"srv    load_model: failed to load model, '{model}'",
            "main: exiting due to model loading error",
        ]
    return [
        *lines,
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "llama_model_load_from_file_impl: failed to load model",
        f"srv    load_model: failed to load model, '{model}'",
        "main: exiting due to model loading error",
    ]


def corrupt(model: str) -> list[str]:
    """The file is not whole."""
    return [
        "llama_model_load: error loading model: tensor 'blk.7.ffn_up.weight' data is not within the file "
        "bounds, model is corrupted or incomplete",
        "llama_model_load_from_file_impl: failed to load model",
        f"srv    load_model: failed to load model, '{model}'",
        "main: exiting due to model loading error",
    ]


ASSERT = "/build/ggml/src/ggml-backend.cpp:1936: GGML_ASSERT(tensor->buffer != NULL) failed"
NO_ROOM_TO_COMPUTE = [
    "CUDA error: out of memory",
    "  current device: 0, in function alloc at /build/ggml/src/ggml-cuda/ggml-cuda.cu:446",
    "  cuMemCreate(&handle, reserve_size, &prop, 0)",
    "/build/ggml/src/ggml-cuda/ggml-cuda.cu:88: CUDA error",
]


def _mib(count: int) -> str:
    return f"{count / _MIB:.2f} MiB"
