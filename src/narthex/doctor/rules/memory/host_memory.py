"""Lines about main memory: what was refused, and whom the kernel ended."""

from __future__ import annotations

from narthex.doctor.sign import Sign

REFUSED = Sign(
    r"requires more system memory \((?P<needs>[^)]+)\) than is available \((?P<has>[^)]+)\)",
    words=["requires more system memory"],
)
TOO_LARGE = Sign(
    r'model request too large for system"? requested="?(?P<needs>[\d.]+ ?\w+)"? available="?(?P<has>[\d.]+(?:'
    r" \w+)?)",
    words=["model request too large for system"],
)
TOO_LARGE_BARE = Sign(r"model request too large for system")
CPU_BUFFER = Sign(
    r"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size (?P<bytes>\d+)"
    r"|failed to allocate CPU\w* buffer(?: of size (?P<size>\d+))?|unable to allocate CPU\w* buffer"
    r"|ggml_aligned_malloc: insufficient memory \(attempted to allocate (?P<mib>[\d.]+) MB\)",
    words=[
        "failed to allocate buffer of size",
        "failed to allocate cpu",
        "unable to allocate cpu",
        "insufficient memory",
    ],
)
NO_MEMORY = Sign(
    r"Cannot allocate memory(?! in static TLS)|std::bad_alloc|DefaultCPUAllocator: (?:not enough|can't"
    r" allocate) memory"
    r"|fatal error: (?:runtime: )?(?:out of memory|cannot allocate memory)|paging file is too small"
    r"|\bMemoryError\b",
    words=[
        "cannot allocate memory",
        "bad_alloc",
        "defaultcpuallocator",
        "fatal error:",
        "paging file is too small",
        "memoryerror",
    ],
)
HOST_PROJECTED = Sign(
    r"projected to use (?P<needs>\d+) MiB of host memory vs\. (?P<has>\d+) MiB of (?:total|free) host memory"
)
SYSTEM = Sign(
    r'msg="system memory" total="(?P<total>[^"]+)" free="(?P<free>[^"]+)"(?: free_swap="(?P<swap>[^"]+)")?'
)
ALL = (REFUSED, TOO_LARGE, TOO_LARGE_BARE, CPU_BUFFER, NO_MEMORY, HOST_PROJECTED, SYSTEM)
