"""What a load takes beside the engine's own buffers: the device context, and the host's output buffer."""

from __future__ import annotations

from narthex.memory.calibrate import Calibration
from narthex.units import MIB, format_loads, format_size

# Measured on an H100 with llama.cpp b11434 (CUDA 12): of 20475 MiB of the card 19950 MiB were left for the
# engine once its CUDA context stood. Smaller cards take less: 525 MiB is the careful side.
CUDA_CONTEXT = 525 * MIB
# What the engine takes beside its own buffers once it computes (cuBLAS workspace, CUDA graphs). NVML read
# 607 to 610 MiB a process with all layers on that card, up to 681 MiB with layers on the CPU
# (bench/results/h100-held-to-20gb.json).
CUDA_RUNTIME = 85 * MIB
DEFAULT_RESERVE = 128 * MIB


def device_overhead(calibration: Calibration | None, beside_bytes: int = 0) -> tuple[int, str]:
    """Bytes on a GPU beside the engine's buffers, and where the figure comes from.

    ``beside_bytes``: :attr:`Inspection.beside_bytes`; a measured figure holds it already.
    """
    usual = CUDA_CONTEXT + CUDA_RUNTIME + beside_bytes
    if calibration is not None and calibration.measured("gpu", "overhead"):
        return (
            calibration.correct("gpu", "overhead", usual),
            f"measured by NVML in {format_loads(calibration.loads)} of {calibration.engine_key}",
        )
    beside = f", and {format_size(beside_bytes)} that is loaded beside the model" if beside_bytes else ""
    return (
        usual,
        "525 MiB for the CUDA context and 85 MiB that it takes once it computes, as measured on an H100 "
        f"with llama.cpp b11434{beside}",
    )


def output_buffer(vocabulary: int, slots: int) -> int:
    """The host's buffer for finished logits: one row a slot (``llama_context::output_reserve``)."""
    return vocabulary * slots * 4
