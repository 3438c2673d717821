"""After an unload the driver did not report the memory free in time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import remedies
from narthex.doctor.rules.model.telling import loaded_later
from narthex.doctor.sign import Sign
from narthex.doctor.story import loads

LATE = Sign(r"VRAM usage didn't recover within timeout", words=["recover within timeout"], first=5, last=60)

REMEDY = Remedy(
    text=(
        "Often harmless: the next load only waits five seconds more. If loads fail after it, look for a"
        " process that stayed, and for the fault that ended the runner before."
    ),
    commands=(
        remedies.LOOK_AT_TENANTS,
        Command(text="Restart Ollama if a runner without a model stays in the list", safe=False),
        Command(
            text="Upgrade Ollama",
            safe=False,
            note="newer versions wait more cleverly and write this only at DEBUG",
        ),
    ),
    verify="After an unload nvidia-smi shows the memory free within seconds, and the next load is quick.",
    verify_commands=(remedies.SHOW_CARD,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The line itself."""
    hits = evidence.hits(LATE)
    if not hits:
        return
    seconds = [float(found[1]) for hit in hits if (found := re.search(r"seconds=([\d.]+)", hit.entry.plain))]
    size = re.search(r'runner\.(?:vram|size)="([^"]+)"', hits[-1].entry.plain)
    waited = f" It waited {max(seconds):.1f} s at most." if seconds else ""
    of = f" The model held {size[1]}." if size else ""
    count = evidence.count(LATE)
    ends = [load.end for load in loads(evidence) if load.end]
    well = loaded_later(evidence, hits[-1].entry) is not None and set(ends) == {"ready"}
    yield Finding(
        cause="vram_not_recovered",
        title="The GPU's memory came back late after an unload",
        severity=Severity.INFO if well else Severity.WARNING,
        confidence=0.6,
        evidence=tuple(hit.quote() for hit in (hits[0], *hits[-1:])[: min(2, len(hits))]),
        why=(
            f"Ollama said so {count} time{'s' if count != 1 else ''}.{waited}{of} It goes on after that; "
            "on unified memory and with slow drivers this is common."
            + (" All loads went well, also those after it." if well else "")
        ),
        remedy=REMEDY,
    )


RULE = Rule(
    slug="vram_not_recovered",
    title="GPU memory did not come back in time",
    area="memory",
    meaning=(
        "Ollama waits up to five seconds after an unload until the card has its memory back. It did not see"
        " that."
    ),
    signature=("gpu VRAM usage didn't recover within timeout",),
    certain="nvidia-smi shows after the unload whether the memory came back later, or a process stayed.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="container_gpu_lost_cgroup", how="Then the card can't be asked at all: device context 800."
        ),
        LookAlike(
            cause="keep_alive_unload_reload",
            how="The model is unloaded just before each request; this is a by-line.",
        ),
        LookAlike(
            cause="vram_contention_other_process", how="Another program takes the room as soon as it is free."
        ),
    ),
    signs=(LATE,),
    check=check,
)
