"""Lines in which a program says that memory could not be had, by the step at which it was asked for."""

from __future__ import annotations

from narthex.doctor.sign import Sign

# A device other than main memory: CUDA0, ROCm1, Vulkan0, SYCL0, Metal, RPC0[host:port], "backend" (2024).
_DEVICE = r"(?!CPU|\w+_Host|BLAS)(?P<device>[A-Za-z]\w*(?:\[[^\]]*\])?)"

ALLOCATING = Sign(
    r"(?:allocating (?P<mib>[\d.]+) MiB on device (?P<device>\d+): )?(?:cuda|hip|musa)Malloc failed",
    words=["malloc failed"],
)
BUFFER_FAILED = Sign(
    rf"failed to allocate {_DEVICE} buffer(?: of size (?P<bytes>\d+))?|unable to allocate"
    r" (?!CPU)(?P<unable>\S+) buffer",
    words=["failed to allocate", "unable to allocate"],
)
LARGE_BUFFER = Sign(
    r"Device memory allocation of size (?P<bytes>\d+) failed"
    r"|ggml_(?:backend_)?metal\w*: error: failed to allocate buffer, size = (?P<mib>[\d.]+) MiB"
    r"|can't (?:malloc|allocate) (?P<sycl>\d+) Bytes (?:of )?memory on device",
    words=["memory allocation of size", "failed to allocate buffer, size", " bytes"],
)
BUFFER_LIMIT = Sign(
    r"Requested buffer size exceeds (?:device )?(?:memory allocation|buffer size) limit"
    r"|greater than the maximum allowed buffer size"
)
DEVICE_OOM = Sign(
    r"ErrorOutOfDeviceMemory|OutOfDeviceMemoryError|VK_ERROR_OUT_OF_DEVICE_MEMORY|UR_RESULT_ERROR_OUT_OF_\w+"
)
KV_FAILED = Sign(
    r"failed to allocate buffer for (?:the )?(?:kv|rs) cache|llama_kv_cache_init\(\) failed",
    words=["buffer for", "llama_kv_cache_init() failed"],
)
COMPUTE_FAILED = Sign(
    r"failed to allocate compute(?: \w+)? buffers?|gallocr_(?:reserve|alloc_graph)\w*: failed to allocate"
    r"|graph_reserve: failed|failed to allocate graph(?!, reserving)",
    words=["failed to allocate", "graph_reserve: failed"],
)
CUDA_OOM = Sign(
    r"(?:CUDA|ROCm|HIP|MUSA) error:? (?:2 at .*)?out of memory|CUDA error 2 at|hipErrorOutOfMemory"
    r"|HSA_STATUS_ERROR_OUT_OF_RESOURCES"
    r"|cudaErrorMemoryAllocation",
    words=[
        "out of memory",
        "error 2 at",
        "hsa_status_error_out",
        "hiperroroutofmemory",
        "cudaerrormemoryallocation",
    ],
)
CUBLAS = Sign(
    r"(?:CUBLAS|HIPBLAS|ROCBLAS)_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)|cuBLAS error [13] at"
    r"|CUDA error: the (?:library was not initialized|resource allocation failed)",
    words=[
        "_status_not_initialized",
        "_status_alloc_failed",
        "cublas error",
        "library was not init",
        "resource allocation failed",
    ],
)
METAL = Sign(r"kIOGPUCommandBufferCallbackErrorOutOfMemory")
RUNTIME_OOM = Sign(r"runtime OOM detected")
NO_LAYOUT = Sign(
    r"memory layout cannot be allocated|failed to commit memory for model"
    r"|insufficient memory - required allocations"
)

# What stands near them and tells at which step it was.
FUNCTION = Sign(r"current device: -?\d+, in function (?P<function>\w+)")
RETRIED = Sign(
    r"retrying without pipeline parallelism|model layout did not fit, applying backoff"
    r"|reducing automatic context and retrying|evicting all other models and retrying|startup-oom-retry",
    words=["retrying", "applying backoff", "startup-oom-retry"],
)
COPIES = Sign(r"pipeline parallelism enabled(?: \(n_copies=(?P<copies>\d+)\))?")
CONTEXT_SIZE = Sign(r"\bn_ctx = (?P<ctx>\d+)", words=["n_ctx"])

FAILURES = (
    ALLOCATING,
    BUFFER_FAILED,
    LARGE_BUFFER,
    BUFFER_LIMIT,
    DEVICE_OOM,
    KV_FAILED,
    COMPUTE_FAILED,
    CUDA_OOM,
    CUBLAS,
    METAL,
    RUNTIME_OOM,
    NO_LAYOUT,
)
ALL = (*FAILURES, FUNCTION, RETRIED, COPIES, CONTEXT_SIZE)
