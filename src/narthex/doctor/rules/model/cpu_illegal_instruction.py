"""The program uses an instruction that this CPU does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.rivals import ILLEGAL
from narthex.doctor.rules.model.telling import loaded_later, quotes

EXIT_SIGILL = 128 + 4
_OURS = re.compile(r"llama|ggml|python|comfy|uvicorn", re.IGNORECASE)  # the kernel tells of every program

REMEDY = Remedy(
    text="Take a build for this CPU: an official package, which chooses its code by the CPU, or build it on "
    "this "
    "machine. In a virtual machine give it the host's CPU type.",
    commands=(
        Command(text="lscpu | grep -E 'Model name|Flags|Features'", safe=True, note="what this CPU has"),
        Command(
            text="cmake -B build -DGGML_NATIVE=ON && cmake --build build --config Release",
            safe=True,
            note="llama.cpp, built on the machine that runs it; -DGGML_NATIVE=OFF for a plain build",
        ),
        Command(
            text="qm set VMID --cpu host",
            safe=False,
            root=True,
            note="Proxmox; elsewhere the CPU type «host-passthrough». The machine must be shut down and "
            "started",
        ),
    ),
    verify="The program starts and a model answers.",
    verify_commands=(Command(text='ollama run MODEL "hello"', safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The kernel ended it with SIGILL."""
    hits = [hit for hit in evidence.hits(ILLEGAL) if _is_ours(hit)]
    said: list[Quote] = list(quotes(hits))
    for row in evidence.all_readings("container"):
        if (row.value or {}).get("exit_code") == EXIT_SIGILL:
            said.append(evidence.quote_reading(row))
    if not said:
        return
    over = bool(hits) and loaded_later(evidence, hits[-1].entry) is not None
    yield Finding(
        cause="cpu_illegal_instruction",
        title="The program uses instructions that this CPU lacks",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.6 if over else 0.95,
        evidence=tuple(said),
        why="The processor refused an instruction and the kernel ended the program (SIGILL, status 132, on "
        "Windows "
        "0xc000001d). It was built for another CPU, or a virtual machine hides what the CPU has.",
        ruled_out=(
            RuledOut(cause="runner_crash_bug", why="A fault in the program ends it with SIGSEGV or SIGABRT."),
        ),
        remedy=REMEDY,
    )


def _is_ours(hit: Hit) -> bool:
    return "trap invalid opcode" not in hit.entry.plain or bool(_OURS.search(hit.entry.plain))


RULE = Rule(
    slug="cpu_illegal_instruction",
    title="An instruction that this CPU lacks",
    area="model",
    meaning="The program was compiled for a CPU with more instructions (AVX2, AVX-512, AMX, SVE …) than "
    "this one has "
    "or its virtual machine shows. It ends at once, or at the first computation.",
    signature=(
        "Illegal instruction (core dumped)",
        "llama runner process has terminated: signal: illegal instruction",
        "exit status 0xc000001d",
        "kernel: traps: ollama[PID] trap invalid opcode",
    ),
    certain="`lscpu` shows the CPU's flags; the build's documents say which it needs.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="cpu_no_avx", how="Ollama itself says that AVX is missing, and goes on without the GPU."
        ),
        LookAlike(cause="runner_crash_bug", how="The signal is another one: aborted, segmentation fault."),
    ),
    signs=(ILLEGAL,),
    explains=("runner_crash_bug",),
    overrules=("runner_crash_bug",),
    check=check,
)
