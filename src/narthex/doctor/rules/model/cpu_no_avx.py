"""The CPU shows no AVX; old Ollama then drops the GPU, too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.rivals import ILLEGAL
from narthex.doctor.rules.model.telling import quotes
from narthex.doctor.sign import Sign

TOLD = Sign(
    r"CPU does not have (?:minimum )?(?:AVX|vector extensions)|GPU inference disabled|disabling GPU support"
    r"|CPU (?:lacks|has no|without) AVX|AVX (?:instructions? )?(?:is|are) not supported"
)
FLAGS = Sign(r"^flags ?:(?P<flags>.*\bsse2?\b.*)$", words=["flags"])

REMEDY = Remedy(
    text="Give the virtual machine the host's CPU type. On a CPU that truly has no AVX take a newer Ollama, "
    "or a "
    "build without AVX.",
    commands=(
        Command(text="grep -o -m1 -w avx /proc/cpuinfo", safe=True, note="prints avx where the CPU shows it"),
        Command(
            text="qm set VMID --cpu host",
            safe=False,
            root=True,
            note="Proxmox; with libvirt: <cpu mode='host-passthrough'/>. Then shut the machine down and "
            "start it",
        ),
    ),
    verify="The flags show avx, and Ollama's start names the GPU.",
    verify_commands=(Command(text="grep -c -w avx /proc/cpuinfo", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Ollama says it; or the flags are shown without it, and a program died of it."""
    told = evidence.hits(TOLD)
    bare = [hit for hit in evidence.hits(FLAGS) if not re.search(r"\bavx", hit["flags"])]
    died = evidence.hits(ILLEGAL)
    if not told and not (bare and died):
        return
    gpu = any("GPU" in hit.entry.plain for hit in told)
    yield Finding(
        cause="cpu_no_avx",
        title="The CPU shows no AVX" + (", so Ollama does without the GPU" if gpu else ""),
        severity=Severity.ERROR,
        confidence=0.95 if told else 0.8,
        evidence=quotes([*sorted(told, key=_is_plain), *bare, *died]),
        why=(
            "Ollama looked at the CPU and found no vector extensions"
            + (": this version's GPU code needs AVX, so the GPU is left unused." if gpu else ".")
        )
        if told
        else "The CPU's flags are listed without avx, and the program ended at an instruction that is not "
        "there.",
        ruled_out=(
            RuledOut(
                cause="driver_not_loaded", why="The GPU was not even asked: the CPU was looked at first."
            ),
        ),
        remedy=REMEDY,
    )


def _is_plain(hit: Hit) -> bool:
    """The line about the GPU is quoted first."""
    return "GPU" not in hit.entry.plain


RULE = Rule(
    slug="cpu_no_avx",
    title="The CPU has no AVX",
    area="model",
    meaning="The processor, or far oftener the CPU type of a virtual machine, offers no AVX. Ollama up to "
    "0.5.7 then "
    "leaves the GPU unused; other builds die of an illegal instruction.",
    signature=(
        "CPU does not have AVX or AVX2, disabling GPU support.",
        "CPU does not have minimum vector extensions, GPU inference disabled required=avx",
        "CPU does not have vector extensions",
    ),
    certain="`grep -w avx /proc/cpuinfo` prints nothing inside the machine, and does on its host.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="cpu_illegal_instruction", how="The CPU has AVX, and the program wants still more."),
        LookAlike(cause="gpu_not_visible", how="No line speaks of the CPU's extensions."),
    ),
    signs=(TOLD, FLAGS),
    explains=("cpu_illegal_instruction", "gpu_not_visible"),
    check=check,
)
