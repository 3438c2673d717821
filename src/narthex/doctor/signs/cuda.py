"""What libcuda, NVML, nvidia-smi, PyTorch and ROCm's libraries print about a card that can't be used.

Codes are CUDA's: 3 not initialised, 35 driver too old, 46 unavailable, 100 no device, 101 no such device,
200 image invalid, 209 no image, 214 ECC, 222 unknown PTX, 304 the operating system refused, 800 not
permitted, 802 not ready, 803 driver and library differ, 804 forward compatibility, 999 unknown.
"""

from __future__ import annotations

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.sign import Sign

INIT_CODE = Sign(
    r"(?:(?:cuda driver library|nvcuda|cudart) init failure:|cuInit err:|cudaSetDevice err:"
    r"|\bcuInit(?:\( ?0? ?\))?\D{0,30}?"
    r"|failed to get device context|\bCUDA error|cudaGetDeviceCount\(\).{0,240}? Error"
    r"|cudaGetDeviceCount\S* (?:returned|failed)\D{0,20}?|CUDA_ERROR\()"
    r" ?(?P<code>\d{1,3})(?!\.?\d)",
    words=[
        "init failure",
        "cuinit",
        "cudasetdevice err",
        "device context",
        "cuda error",
        "cudagetdevicecount",
        "cuda_error(",
    ],
)
NVML_CODE = Sign(r"(?:nvml(?: vram)? init failure:|nvmlInit(?:_v2)? err:) ?(?P<code>\d+)", words=["nvml"])

UNKNOWN = Sign(
    r"failed to initialize CUDA: unknown error|CUDA unknown error - this may be due to"
    r"|unknown error initializing cuda driver library|CUDA_ERROR_UNKNOWN|cudaErrorUnknown"
)
UNKNOWN_WHILE_WORKING = Sign(r"CUDA error: unknown error")
NOT_INITIALISED = Sign(r"failed to initialize CUDA: (?:initialization error|OS call failed)")
NO_DEVICE = Sign(
    r"no nvidia devices detected|no (?:CUDA|ROCm)-capable device is detected"
    r"|No CUDA GPUs are available|No HIP GPUs are available"
    r"|Could not initialize Tensile host: No devices found"
    r"|CUDA_ERROR_NO_DEVICE|cudaErrorNoDevice|hipErrorNoDevice"
    r"|ggml_init_cublas: no CUDA devices found|ggml_cuda_init: found 0 (?:CUDA|ROCm) devices"
    r"|torch\.cuda\.is_available\(\)\W+False\b"
)
NO_DEVICES_FOUND = Sign(
    r"\bNo devices were found|GPU access blocked by the operating system",
    words=["devices were found", "access blocked"],
)
BUSY = Sign(r"CUDA-capable device(?:s|\(s\))? (?:are|is/are) busy or unavailable")
NOT_READY = Sign(
    r"failed to initialize CUDA: system not yet initialized|Error 802: system not yet initialized"
)
BAD_ORDINAL = Sign(
    r"invalid device ordinal"
    r"|invalid value for main_gpu: ?(?P<asked>-?\d+)(?: \(available devices: (?P<have>\d+)\))?"
)

MISMATCH = Sign(
    r"driver/library version mismatch|version mismatch between driver and cuda driver library"
    r"|unsupported display driver ?/ ?cuda driver combination|LIB_RM_VERSION_MISMATCH"
    r"|detected an NVML/RM version mismatch"
)
LIBRARY_VERSION = Sign(r"NVML library version ?: ?(?P<library>\d{3}\.[\d.]*\d)")
NVML_UNKNOWN = Sign(r"Failed to initialize NVML: Unknown Error")
NVML_FORBIDDEN = Sign(r"Failed to initialize NVML: Insufficient Permissions|NVML_ERROR_NO_PERMISSION")
NO_DRIVER = Sign(
    r"couldn\W{0,3}t communicate with the NVIDIA driver|Failed to initialize NVML: Driver Not Loaded"
    r"|nvml error: driver not loaded|NVIDIA driver is not loaded|NVML_ERROR_DRIVER_NOT_LOADED"
)
TORCH_NO_DRIVER = Sign(r"Found no NVIDIA driver on your system")
SMI_MISSING = Sign(
    r"nvidia-smi:? (?:command )?not found|command '?nvidia-smi'? not found|nvidia-smi: No such file"
    r"|unknown command: nvidia-smi|nvidia-smi\"?: executable file not found"
)
SMI_NO_LIBRARY = Sign(r"NVIDIA-SMI couldn\W{0,3}t find libnvidia-ml")

TOO_OLD = Sign(
    r"unsatisfied condition: (?P<needs>cuda ?>= ?[\d.]+)|unsatisfied condition: (?:driver|brand)"
    r"|msg=\"NVIDIA driver too old\""
    r"|NVIDIA driver on your system is too old(?: \(found version (?P<found>\d+)\))?"
    r"|AMD driver is too old|unsupported CUDA version: driver"
)
INSUFFICIENT = Sign(
    r"CUDA driver version is insufficient for CUDA runtime version|compiled with an unsupported toolchain"
    r"|cudaErrorInsufficientDriver|CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
)
FORWARD_COMPAT = Sign(r"forward compatibility was attempted on non supported HW")
TOO_OLD_OR_MISSING = Sign(r"nvidia driver is too old or missing")
OLD_LIBRARY = Sign(r"symbol lookup for cuCtxCreate_v3 failed")  # it came with driver 470

NO_KERNEL = Sign(
    r"no kernel image is available|kernel image is invalid|invalid device function|hipErrorNoBinaryForGpu"
    r"|Unable to find code object for all current devices|cudaErrorNoKernelImageForDevice"
    r"|hipErrorInvalidDeviceFunction"
)
ECC = Sign(
    r"uncorrectable ECC error encountered|cudaErrorECCUncorrectable|CUDA_ERROR_ECC_UNCORRECTABLE"
    r"|uncorrectable hardware errors detected"
)

SMI_WORKS = Sign(
    r"NVIDIA-SMI (?P<smi>\d[\d.]+).*Driver Version: ?(?P<driver>\d[\d.]+)"
    r"(?:.*CUDA Version: ?(?P<cuda>\d[\d.]+))?"
    r"|\bGPU \d+: .+\(UUID: GPU-",
    words=["driver version", "uuid: gpu-"],
)
SMI_LOST = Sign(
    r"Unable to determine the device handle for GPU ?(?P<pci>[0-9A-Fa-f:.]*\d)(?!.*Not Found)|GPU is lost"
    r"|Reboot the system to recover this GPU|GPU requires reset|GPU Reset Required"
)
SMI_ERR = Sign(
    r"^\|.*\bERR!.*\bERR!|^\|.*\|.*\bERR!.*\|",
    words=["err!"],
    kinds=("nvidia_smi", "commands", "client_error"),
)
SMI_ECC = Sign(
    r"^\| *\d+ .*\| *[0-9A-F]{4,8}:[0-9A-F]{2}:[0-9A-F]{2}\.\d +\S+ \| +(?P<ecc>[1-9]\d*) +\|",
    words=[":00.0 "],
)


def with_code(evidence: Evidence, *codes: int) -> list[Hit]:
    """Lines that tell one of these codes of CUDA."""
    return [hit for hit in evidence.hits(INIT_CODE) if int(hit["code"]) in codes]


def with_nvml_code(evidence: Evidence, *codes: int) -> list[Hit]:
    """Lines with one of these codes of NVML: 9 driver not loaded, 15 lost, 18 versions differ."""
    return [hit for hit in evidence.hits(NVML_CODE) if int(hit["code"]) in codes]
