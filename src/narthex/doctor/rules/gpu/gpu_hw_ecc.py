"""The GPU's memory reports errors that it can't correct."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where, xids
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda

PENDING = Sign(
    r"Pending(?: Page Blacklist)? ?: Yes|Retired Pages Pending ?: Yes|Remapping Failure Occurred ?: Yes"
    r"|(?:Double Bit ECC|DRAM Uncorrectable|SRAM Uncorrectable|Uncorrectable Error)\s*: [1-9]",
    words=["pending", "remapping failure", "double bit ecc", "uncorrectable"],
)

REMEDY = Remedy(
    text="Save the work, reset the card so that the bad memory is taken out of use, and watch the "
    "counters. If they "
    "grow again, the card has to be replaced.",
    commands=(
        Command(
            text="nvidia-smi -q -d ECC,PAGE_RETIREMENT,ROW_REMAPPER",
            safe=True,
            argv=("nvidia-smi", "-q", "-d", "ECC,PAGE_RETIREMENT,ROW_REMAPPER"),
        ),
        steps.STOP_OLLAMA,
        Command(
            text="sudo nvidia-smi --gpu-reset -i 0",
            safe=False,
            root=True,
            note="the number of the card; every program on it must be stopped; else reboot",
        ),
        steps.RESTART_OLLAMA,
        Command(
            text="sudo dcgmi diag -r 3",
            safe=False,
            root=True,
            note="NVIDIA's long test, for a claim on warranty",
        ),
    ),
    verify="After a long load the counters of uncorrectable errors have not grown, and no new Xid "
    "line is there.",
    verify_commands=(
        Command(text="nvidia-smi -q -d ECC", safe=True, argv=("nvidia-smi", "-q", "-d", "ECC")),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """CUDA or the kernel say it, nvidia-smi counts it."""
    told = [
        *evidence.hits(cuda.ECC),
        *xids.with_numbers(evidence, xids.MEMORY),
        *cuda.with_code(evidence, 214),
    ]
    counted = evidence.hits(PENDING, cuda.SMI_ECC)
    live = _live(evidence)
    hits = list({hit.entry.place: hit for hit in (*told, *counted)}.values())
    if not (hits or live):
        return
    mild = (
        bool(told)
        and all(hit.match.groupdict().get("number") in ("63", "92") for hit in told)
        and not counted
    )
    yield Finding(
        cause="gpu_hw_ecc",
        title="The GPU's memory has errors that can't be corrected",
        severity=Severity.WARNING if mild or (live and not hits) else Severity.CRITICAL,
        confidence=0.95 if told else 0.85,
        evidence=tuple(dict.fromkeys([*live, *(hit.quote() for hit in hits[:4])])),
        why=_why(hits, mild),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="runner_crash_bug",
                why="The hardware itself reports the error; no program can bring it about.",
            ),
            RuledOut(cause="gpu_xid_app_fault", why="The numbers are those of memory, not of a program."),
        ),
        about=xids.card(xids.with_numbers(evidence, xids.MEMORY)),
    )


def _live(evidence: Evidence) -> list[Quote]:
    return [
        evidence.quote_reading(row)
        for row in evidence.all_readings("gpu.ecc")
        if isinstance(row.value, dict)
        and (row.value.get("uncorrectable") or row.value.get("pending_retirement"))
    ]


def _why(hits: list[Hit], mild: bool) -> str:
    numbers = xids.in_words([hit for hit in hits if "number" in hit.match.groupdict()])
    if mild:
        return (
            f"Xid {numbers}: the card has taken a part of its memory out of use; that is done "
            f"with the next reset."
        )
    if numbers:
        return f"Xid {numbers}: the card's memory."
    return (
        "The card counts memory errors that it could not correct: results and programs on it "
        "can't be trusted."
    )


RULE = Rule(
    slug="gpu_hw_ecc",
    title="Memory errors of the GPU (ECC)",
    area="gpu",
    meaning="The card's memory checks itself and found errors that it can't correct. The program "
    "that met one is "
    "ended; the place is taken out of use with the next reset. It is hardware.",
    signature=(
        "CUDA error: uncorrectable ECC error encountered",
        "NVRM: Xid (PCI:0000:3b:00): 48 / 63 / 64 / 94 / 95",
        "nvidia-smi: Volatile Uncorr. ECC above 0",
    ),
    certain="`nvidia-smi -q -d ECC` counts uncorrectable errors.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="gpu_xid_app_fault", how="Xid 13 or 31: one program; no ECC counter grows."),
        LookAlike(cause="gpu_fell_off_bus", how="Xid 79: the whole card is silent."),
    ),
    check=check,
    signs=(PENDING, *where.SIGNS),
    readings=("gpu.ecc",),
    explains=("gpu_xid_app_fault", "runner_crash_bug", "gpu_not_visible", "gpu_fell_off_bus"),
)
