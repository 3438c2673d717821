"""What the processor can compute with: engines are built for some of it."""

from __future__ import annotations

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading

NAME = "processor"
TIME_S = 1.0

_WANTED = (
    "avx",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_tile",
    "f16c",
    "fma",
    "bmi2",
    "sse4_2",
    "sse3",
    "hypervisor",
)


def collect(scope: Scope) -> Collected:
    """The flags of the first processor that matter here."""
    text = scope.read("/proc/cpuinfo")
    if text is None:
        return Collected(readings=(gap("cpu.flags", "/proc/cpuinfo can't be read"),))
    row = next((line for line in text.splitlines() if line.startswith("flags")), "")
    if not row:
        why = "/proc/cpuinfo lists no flags: this is no x86 processor"
        return Collected(readings=(gap("cpu.flags", why),))
    there = set(row.partition(":")[2].split())
    flags = [name for name in _WANTED if name in there]
    shown = " ".join(flags) or "none of those that engines look for"
    return Collected(readings=(Reading(name="cpu.flags", value=flags, text=f"CPU flags: {shown}"),))
