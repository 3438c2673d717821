"""Only an integrated GPU is there, and Ollama leaves it alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import cards, steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda

DROPPED = Sign(
    r"dropping integrated GPU(?:.*?description=\"(?P<name>[^\"]*)\")?"
    r"|unsupported Radeon iGPU detected skipping"
    r"|(?:iGPU|integrated GPU) (?:detected|found)[^\w]{1,3}skip|ROCm unsupported integrated GPU detected",
    words=["integrated gpu", "igpu detected", "igpu found"],
)

OTHER = Sign(  # a card besides it, before any line says what is used
    r"found [1-9]\d* (?:CUDA|ROCm|HIP) devices|using device (?:CUDA|ROCm|HIP|Vulkan|SYCL)\d"
    r"|amdgpu is supported"
    r"|\blibrary=\"?(?:CUDA|ROCm|HIP)\b|\b(?:CUDA|ROCm)\d (?:model |KV |compute )?buffer size",
    words=["devices", "using device", "amdgpu is supported", "library=", "buffer size"],
    first=10,
    last=10,
)
REFUSED = Sign(r"amdgpu is not supported", words=["amdgpu is not supported"])  # a card besides it
_DESCRIPTION = re.compile(r"description=\"([^\"]*)\"")

REMEDY = Remedy(
    text="If the integrated GPU is to be used, allow it. It shares the machine's memory, so answers "
    "are often not "
    "faster than on the CPU; long prompts are.",
    commands=(
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="OLLAMA_IGPU_ENABLE=1"',
            safe=True,
            root=True,
            note="since Ollama 0.30; in Docker: -e OLLAMA_IGPU_ENABLE=1 and --device /dev/dri (AMD: "
            "also /dev/kfd)",
        ),
        steps.RESTART_OLLAMA,
        Command(
            text="OLLAMA_VULKAN=1",
            safe=False,
            note="before 0.30 (since 0.12.11) Vulkan may take it; give it more memory in the "
            "firmware's settings",
        ),
    ),
    verify="The line «inference compute» says type=iGPU; compare the speed of an answer with before.",
    verify_commands=(steps.COMPUTE_LINE, Command(text="ollama ps", safe=True)),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """It is dropped, and the CPU is all that is left. Beside a discrete card in use that is right."""
    hits = where.standing(evidence, evidence.hits(DROPPED))
    hits = [hit for hit in hits if not cards.is_discrete(name_of(evidence, hit))]
    if not hits or where.gpu_before(evidence, hits[-1].entry) is not None or evidence.has(REFUSED):
        return
    cpu = where.on_cpu(evidence, hits[0].entry)
    if cpu is None and (where.any_gpu(evidence) or evidence.has(OTHER, cuda.SMI_WORKS)):
        return
    name = next((found for hit in hits if (found := name_of(evidence, hit))), "")
    told = f"Ollama dropped the integrated GPU{f' ({name})' if name else ''}"
    yield Finding(
        cause="igpu_not_used",
        title="The only GPU is an integrated one, and Ollama does not use it",
        severity=Severity.WARNING,
        confidence=0.9 if cpu is not None else 0.55,
        evidence=(*(hit.quote() for hit in hits[:2]), *((cpu.quote(),) if cpu is not None else ())),
        why=f"{told} and found no other: it computes on the CPU."
        if cpu is not None
        else f"{told}, and no other GPU is named here; the line that tells what it uses is not at hand.",
        remedy=REMEDY,
        ruled_out=(
            RuledOut(cause="gpu_not_visible", why="A GPU was found; it was left out on purpose."),
            RuledOut(cause="gpu_hidden_by_env", why="No variable of visible devices is named as the reason."),
        ),
    )


def name_of(evidence: Evidence, hit: Hit) -> str:
    """What the dropped GPU is called: in the line, or in the next ones where it was broken; "" unknown."""
    if hit["name"]:
        return hit["name"]
    for entry in evidence.around(hit.entry, 0, 5)[1:]:
        if "msg=" in entry.plain or DROPPED.pattern.search(entry.plain):
            break
        if found := _DESCRIPTION.search(entry.plain):
            return found[1]
    return ""


RULE = Rule(
    slug="igpu_not_used",
    title="The integrated GPU is not used",
    area="gpu",
    meaning="Ollama leaves integrated GPUs alone by default: they share the machine's memory and are "
    "seldom faster. "
    "Where there is no other, it computes on the CPU.",
    signature=("dropping integrated GPU; to enable, set OLLAMA_IGPU_ENABLE=1, then library=cpu",),
    certain="The next line «inference compute» says library=cpu. With a discrete card there, all is well.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="healthy", how="A discrete card is named right after it and used."),
        LookAlike(
            cause="rocm_gpu_unsupported", how="The card is outside ROCm's list, whether integrated or not."
        ),
    ),
    check=check,
    signs=(DROPPED, OTHER, REFUSED, *where.SIGNS),
    explains=(
        "container_started_without_gpu",
        "gpu_not_visible",
    ),
    overrules=("gpu_not_visible", "rocm_gpu_unsupported"),
)
