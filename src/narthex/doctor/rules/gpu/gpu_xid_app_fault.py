"""The kernel blames one process for a fault on the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where, xids
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel

ILLEGAL = Sign(
    r"an illegal memory access was encountered|an illegal instruction was encountered|misaligned address"
    r"|unspecified launch failure"
)
DEVICE_LOST = Sign(r"ErrorDeviceLost|DeviceLostError|VK_ERROR_DEVICE_LOST|CUBLAS_STATUS_EXECUTION_FAILED")
_AMD = re.compile(r"ROCm|HIP\b|hip[A-Z]|RADV|AMD")
REMEDY = Remedy(
    text="Update the program that is blamed, then the driver. It says nothing against the card by "
    "itself; only if "
    "quite different programs bring it, test the card.",
    commands=(
        steps.KERNEL_LOG,
        Command(
            text="ollama --version; nvidia-smi", safe=True, note="note the versions before you change one"
        ),
        Command(
            text="curl -fsSL https://ollama.com/install.sh | sh",
            safe=False,
            root=True,
            note="the newest runtime",
        ),
        Command(
            text="OLLAMA_FLASH_ATTENTION=0",
            safe=False,
            note="a try: another path through the GPU; restart Ollama",
        ),
        steps.RESTART_OLLAMA,
        Command(
            text="Without overclocking: nvidia-smi -rgc; then the same job, and another program's job",
            safe=False,
            root=True,
            note="faults of many programs speak for the card, its memory or its power",
        ),
    ),
    verify="The same job runs without a new Xid line in the kernel log.",
    verify_commands=(Command(text="journalctl -k --since -10min --no-pager | grep -i xid", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Xid of a program's kind. The number decides, and what stands beside it."""
    hits = xids.with_numbers(evidence, xids.APP)
    real = [hit for hit in hits if hit["number"] != "45"]
    if not real:
        yield from _without_kernel_log(evidence)
        return
    worse = xids.with_numbers(evidence, xids.MEMORY | xids.SILENT) or evidence.hits(kernel.FELL_OFF)
    crash = evidence.hits(ILLEGAL)
    over = where.gpu_after(evidence, real[-1].entry) is not None
    names = list(dict.fromkeys(_name(hit) for hit in real if _name(hit)))
    yield Finding(
        cause="gpu_xid_app_fault",
        title=f"A program's fault on the GPU: Xid {xids.in_words(real[:3])}",
        severity=Severity.WARNING if over else Severity.ERROR,
        confidence=0.5 if worse else 0.6 if over else 0.9 if names else 0.75,
        evidence=tuple(hit.quote() for hit in (*real[:3], *crash[:1])),
        why=_why(real, names, bool(crash)),
        remedy=REMEDY,
        ruled_out=()
        if worse
        else (
            RuledOut(
                cause="gpu_fell_off_bus", why="No Xid 79 and no silent card: the card went on answering."
            ),
            RuledOut(cause="gpu_hw_ecc", why="No Xid 48, 63, 64, 94 or 95 and no ECC error is told of."),
        ),
        about=", ".join(names[:3]),
    )


def _without_kernel_log(evidence: Evidence) -> Iterator[Finding]:
    """The program's own words for what the kernel logs as Xid 13 or 31."""
    told = evidence.hits(ILLEGAL, DEVICE_LOST) + cuda.with_code(evidence, 700, 716, 717, 719)
    told = [hit for hit in told if not _AMD.search(hit.entry.plain) and not where.mended(evidence, hit.entry)]
    if not told or xids.with_numbers(evidence, xids.APP) or xids.card_is_lost(evidence):
        return
    rows = list({hit.entry.place: hit for hit in told}.values())
    plain = any(hit.match.re is not DEVICE_LOST.pattern for hit in rows)
    yield Finding(
        cause="gpu_xid_app_fault",
        title="A program's fault on the GPU",
        severity=Severity.ERROR,
        confidence=0.4 if not plain or evidence.has_kind("dmesg") else 0.6,
        evidence=tuple(hit.quote() for hit in rows[:3]),
        why="The driver stopped the program on the GPU for what it did there. The kernel log of that minute "
        "tells whose fault it is: Xid 13 or 31 is the program's, 48, 79 or 94 the card's.",
        remedy=REMEDY,
        ruled_out=(RuledOut(cause="vram_oom_in_generation", why="The error is not one of lacking memory."),),
    )


def _name(hit: Hit) -> str:
    name, pid = hit["name"].strip(), hit["pid"]
    if name and not name.startswith("<"):
        return f"{name} (PID {pid})" if pid.isdigit() else name
    return f"PID {pid}" if pid.isdigit() else ""


def _why(hits: list[Hit], names: list[str], crash: bool) -> str:
    text = f"The kernel logged {len(hits)} such lines"
    if card := xids.card(hits):
        text += f" for the card {card}"
    if len(names) == 1:
        text += f", all by {names[0]}"
    elif names:
        text += f", by {', '.join(names[:3])}"
        text += (
            ": several processes; if they are of different programs, test the card" if len(names) > 2 else ""
        )
    return text + (", and the program's own log tells of a bad access." if crash else ".")


RULE = Rule(
    slug="gpu_xid_app_fault",
    title="A program's fault on the GPU (Xid 13, 31, …)",
    area="gpu",
    meaning="The driver stopped one process because of what it did on the GPU: it touched memory "
    "that is not mapped "
    "or ran a bad instruction. The process dies; the card goes on.",
    signature=(
        "NVRM: Xid (PCI:0000:01:00): 31, pid=…, name=llama-server, … MMU Fault",
        "NVRM: Xid (PCI:0000:01:00): 13, pid=…, Graphics SM Warp Exception",
        "CUDA error: an illegal memory access was encountered",
    ),
    certain="The number is one of a program (13, 31, 32, 43, 69, 109), the line names the runner, "
    "and the card works "
    "on for others.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="gpu_fell_off_bus", how="Xid 79, 119 or 154: the card no longer answers anybody."),
        LookAlike(cause="gpu_hw_ecc", how="Xid 48, 63, 64, 94, 95: the card's memory."),
        LookAlike(cause="wrong_gpu_selected", how="Xid 31 on another card than the one that was meant."),
        LookAlike(cause="suspend_resume_gpu_lost", how="Xid 31 right after a sleep, then 999."),
    ),
    check=check,
    signs=(ILLEGAL, DEVICE_LOST, *where.SIGNS),
    explains=("runner_crash_bug",),
    overrules=("cpu_illegal_instruction",),  # Xid 13 says «Illegal Instruction Encoding» of the GPU
)
