"""Lines that explain the death of a runner otherwise than by a fault in its own program."""

from __future__ import annotations

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.rules.model.telling import near
from narthex.doctor.sign import Sign

MEMORY = Sign(
    r"out of (?:device |host )?memory|(?:cuda|hip|musa)malloc failed|std::bad_alloc|bad allocation"
    r"|failed to allocate|unable to allocate|allocation failed|insufficient memory|not enough memory"
    r"|mem_buffer != NULL|OutOfDeviceMemory|OutOfMemory|requires more system memory|OOM detected"
    r"|memory layout cannot be allocated|CUBLAS_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)"
    r"|cannot allocate memory"
)
GPU = Sign(
    r"(?:CUDA|ROCm|HIP|MUSA|cuBLAS|SYCL) error|CUBLAS_STATUS_|illegal memory access|memory access fault"
    r"|no kernel image|invalid device function|device-side assert|DeviceLost|device lost|Xid \(|NVRM: Xid"
    r"|kernel image is invalid|kIOGPUCommandBuffer|unspecified launch failure|Could not initialize Tensile"
    r"|Remote RPC server crashed",
    words=[
        "cuda error", "rocm error", "hip error", "musa error", "cublas", "sycl error", "memory access",
        "kernel image", "invalid device", "device-side", "devicelost", "device lost", "xid (",
        "kiogpucommandbuffer", "launch failure", "tensile", "rpc server crashed",
    ],
)  # fmt: skip
KILLED = Sign(
    r"signal: killed|\bsys=9\b|oom[-_ ]kill|OOM killer|Killed process|Memory cgroup out of memory"
    r"|OOMKilled\"?: ?true"
    r"|exit(?:ed with)? code:? 137",
    words=["signal: killed", "sys=9", "kill", "memory cgroup", "code 137", "code: 137"],
)
CLIENT_GONE = Sign(
    r"context canceled|client connection closed|due to client closing|request canceled|cancel task, id_task"
)
ILLEGAL = Sign(
    r"(?<!an )illegal instr(?!uction (?:encoding|parameter|address|operand|was))|signal: illegal|\bSIGILL\b"
    r"|0xc000001d|(?:running|status):? 3221225501\b|exit (?:status|code):? 132|sys=132\b"
    r"|trap invalid opcode",
    words=["illegal", "sigill", "0xc000001d", "3221225501", "status 132", "code 132", "code: 132", "sys=132",
           "invalid opcode"],
)  # fmt: skip
FILE = Sign(
    r"error loading model|invalid (?:file )?magic|within (?:the )?file bounds|exceeds file size"
    r"|unknown (?:model architecture|pre-tokenizer)|unsupported model architecture|wrong number of tensors"
    r"|missing tensor|invalid ggml type"
)
LIBRARY = Sign(
    r"error while loading shared libraries|exit status 127|no backends are loaded|binary not found"
    r"|no suitable llama servers"
)
SETTING = Sign(
    r"V cache (?:quantization )?requires|quantized V cache|Unsupported cache type|invalid argument: -"
)
ALL = (MEMORY, GPU, KILLED, CLIENT_GONE, ILLEGAL, FILE, LIBRARY, SETTING)


def found(evidence: Evidence, entry: Entry, *signs: Sign) -> Hit | None:
    """The first line of the same moment that tells another reason."""
    return next(iter(near(evidence, evidence.hits(*(signs or ALL)), entry)), None)
