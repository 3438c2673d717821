"""«entering low vram mode»: a harmless line that many hunt."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Finding, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import remedies
from narthex.doctor.signs.ollama import LOW_VRAM_MODE

REMEDY = Remedy(
    text=(
        "Nothing has to be done. Set num_ctx or OLLAMA_CONTEXT_LENGTH if you want another context than the"
        " default."
    ),
    verify="«ollama ps» says «100% GPU» and shows the context.",
    verify_commands=(remedies.SHOW_RESIDENTS,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The line itself. With 0 B it only repeats that no GPU was found, which other rules judge."""
    hit = evidence.last(LOW_VRAM_MODE)
    if hit is None:
        return
    vram = hit["vram"]
    none = vram == "0 B"
    yield Finding(
        cause="low_vram_mode",
        title="«low vram mode» is harmless",
        severity=Severity.INFO,
        confidence=0.9,
        evidence=(hit.quote(),),
        why="It changes nothing but the default context for some models. "
        + (
            "«0 B» says that no GPU was found: that is another matter."
            if none
            else f"The cards have {vram or 'less than 20 GiB'} together."
        ),
        remedy=REMEDY,
    )


RULE = Rule(
    slug="low_vram_mode",
    title="Low VRAM mode (harmless)",
    area="memory",
    meaning=(
        "Ollama 0.11.4 to 0.15.4 writes this where all cards together have less than 20 GiB. It lowers the"
        " default context of some models; the GPU is used as before."
    ),
    signature=('entering low vram mode "total vram"="8.0 GiB" threshold="20.0 GiB"',),
    certain="The line «inference compute» beside it names the GPU.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="gpu_not_visible", how="Then the total is 0 B, and «inference compute» says cpu."),
        LookAlike(
            cause="partial_offload_slow", how="That is told by «offloaded N/M layers», not by this line."
        ),
    ),
    signs=(LOW_VRAM_MODE,),
    check=check,
)
