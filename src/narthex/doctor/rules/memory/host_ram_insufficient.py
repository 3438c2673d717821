"""Main memory is too small for the model, and the program says so itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import host_memory, remedies
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.rules.model.telling import load_of, told_as_past
from narthex.doctor.signs import llama, ollama
from narthex.units import MIB, format_size

_WARNING_ONLY = re.compile(r"mlock|RLIMIT_MEMLOCK|pinned memory", re.IGNORECASE)
_OURS = re.compile(
    r"ollama|llama|ggml|runner|mmap|model|torch|CPUAllocator|bad_alloc|runtime:", re.IGNORECASE
)

REMEDY = Remedy(
    text="Free main memory, or take a smaller model or context. More swap lets it load, and slowly.",
    commands=(
        Command(text="free -h", safe=True),
        Command(text="ps -eo pid,rss,comm --sort=-rss | head", safe=True, note="who holds it"),
        Command(text="ollama ps", safe=True, note="models that are loaded already count too"),
        *remedies.lighter(),
    ),
    verify="The load ends with «started in … seconds».",
    verify_commands=(Command(text="free -h", safe=True, argv=("free", "-h")),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Ollama's refusal in so many words; else an allocation in main memory that failed."""
    refused = evidence.last(host_memory.REFUSED) or evidence.last(host_memory.TOO_LARGE)
    bare = evidence.last(host_memory.TOO_LARGE_BARE)
    if refused is not None or bare is not None:
        found = _refusal(evidence, refused or bare)  # type: ignore[arg-type]
        last = evidence.hits(host_memory.REFUSED, host_memory.TOO_LARGE_BARE)[-1].entry
        load = load_of(evidence, last)
        yield told_as_past(evidence, last, found, load.model if load else "")
        return
    hits = [
        hit for hit in evidence.hits(host_memory.CPU_BUFFER, host_memory.NO_MEMORY) if _counts(evidence, hit)
    ]
    if hits:
        yield told_as_past(evidence, hits[-1].entry, _allocation(evidence, hits))


def _refusal(evidence: Evidence, hit: Hit) -> Finding:
    groups = hit.match.groupdict()
    needs, has = groups.get("needs"), groups.get("has")
    free = size_of(has) if has else None
    why = "Ollama refuses to load a model that needs more main memory than the system has."
    if needs and has:
        why = f"The model needs {needs} of main memory, {format_size(free) if free else has} are available."
    return _finding(
        (*_system(evidence, hit), hit.quote()),
        why,
        0.95,
        (
            RuledOut(
                cause="vram_oom_on_load",
                why="This is about main memory: the part that the GPU does not hold.",
            ),
            RuledOut(cause="host_oom_kill", why="Nothing was killed; Ollama refused beforehand."),
        ),
    )


def _allocation(evidence: Evidence, hits: list[Hit]) -> Finding:
    last = hits[-1]
    size = next((found for hit in reversed(hits) if (found := _size(hit))), None)
    asked = f"{format_size(size)} of main memory" if size else "Main memory"
    failed = evidence.has(ollama.LOAD_FAILED, llama.MODEL_ERROR)
    quotes = tuple(dict.fromkeys((hits[0].quote(), last.quote())))
    host = evidence.last(host_memory.HOST_PROJECTED)
    if host is not None:
        quotes = (host.quote(), *quotes)
    return _finding(
        quotes,
        f"{asked} could not be had{', and the load failed' if failed else ''}.",
        0.85 if failed or evidence.has(host_memory.CPU_BUFFER) else 0.6,
        (
            RuledOut(
                cause="vram_oom_on_load", why="The buffer that failed is one in main memory, not on a card."
            ),
        ),
    )


def _counts(evidence: Evidence, hit: Hit) -> bool:
    """A lock that is refused is a warning, and other programs have their own troubles."""
    near = " ".join(entry.plain for entry in evidence.around(hit.entry, 1, 1))
    if _WARNING_ONLY.search(hit.entry.plain) or "RLIMIT_MEMLOCK" in near:
        return False
    return hit.entry.kind not in ("commands", "dmesg", "openwebui_log") or bool(_OURS.search(near))


def _size(hit: Hit) -> int | None:
    groups = hit.match.groupdict()
    for name, unit in (("bytes", 1), ("size", 1), ("mib", MIB)):
        if groups.get(name):
            return round(float(groups[name]) * unit)
    return None


def _system(evidence: Evidence, hit: Hit) -> tuple[Quote, ...]:
    near = [
        one
        for one in evidence.hits(host_memory.SYSTEM)
        if one.entry.source == hit.entry.source and 0 <= hit.entry.line - one.entry.line < 12
    ]
    return tuple(one.quote() for one in near[-1:])


def _finding(
    quotes: tuple[Quote, ...], why: str, confidence: float, ruled_out: tuple[RuledOut, ...]
) -> Finding:
    return Finding(
        cause="host_ram_insufficient",
        title="Main memory is too small for this model",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=quotes,
        why=why,
        remedy=REMEDY,
        ruled_out=ruled_out,
    )


RULE = Rule(
    slug="host_ram_insufficient",
    title="Too little main memory",
    area="memory",
    meaning="What does not fit on the GPU has to fit into main memory, and it does not.",
    signature=(
        "model requires more system memory (5.0 GiB) than is available (3.9 GiB)",
        "model request too large for system",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size …",
    ),
    certain="Ollama tells both figures. With llama-server the buffer that failed is named CPU.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="host_oom_kill", how="There the kernel ends the process; it says nothing itself."),
        LookAlike(
            cause="vram_oom_on_load", how="There the buffer is one on the card: CUDA0, ROCm0, Vulkan0."
        ),
        LookAlike(
            cause="healthy", how="«failed to mlock» alone is a warning: the model is loaded all the same."
        ),
    ),
    signs=host_memory.ALL,
    check=check,
)
