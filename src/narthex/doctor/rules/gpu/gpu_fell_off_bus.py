"""The card no longer answers: it fell off the bus, or its own firmware stopped."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where, xids
from narthex.doctor.signs import cuda, kernel

REMEDY = Remedy(
    text="Only a reboot brings the card back, often only after the power was off. Then look for the "
    "reason: power, "
    "heat, link power saving, the riser or slot, firmware.",
    commands=(
        steps.KERNEL_LOG,
        Command(
            text="lspci -nn | grep -i nvidia", safe=True, note="«rev ff»: the card does not answer on the bus"
        ),
        Command(
            text="sudo poweroff, wait ten seconds, power on",
            safe=False,
            root=True,
            note="a warm reboot often does not reset it",
        ),
        Command(
            text="sudo nvidia-smi -pl 250",
            safe=True,
            root=True,
            note="a lower power limit in watts for a try: if it holds, it is power or heat",
        ),
        Command(
            text="Kernel option pcie_aspm=off; new firmware of the board and of the card; plugs, "
            "riser, another slot",
            safe=False,
            root=True,
            note="one at a time, with a long load after each",
        ),
        Command(
            text="nvidia-smi --query-gpu=temperature.gpu,power.draw,pcie.link.gen.current --format=csv -l 5",
            safe=True,
            note="watch it under load",
        ),
    ),
    verify="An hour under load without a new Xid line in the kernel log.",
    verify_commands=(
        steps.SMI,
        Command(text="journalctl -k --since -1h --no-pager | grep -i xid", safe=True),
    ),
)

_LOST = ("GPU_IS_LOST", "RESET_REQUIRED", "GPU_NOT_FOUND", "UNKNOWN")


def check(evidence: Evidence) -> Iterator[Finding]:
    """Xid 79 and its like, a lost card in NVML's words, or a bus that answers with ones."""
    bus = [*xids.with_numbers(evidence, frozenset({79})), *evidence.hits(kernel.FELL_OFF)]
    lost = [*evidence.hits(cuda.SMI_LOST), *cuda.with_nvml_code(evidence, 15)]
    gone = evidence.hits(kernel.LSPCI_GONE, kernel.UNREACHABLE)
    silent = [*xids.with_numbers(evidence, xids.SILENT - {79}), *evidence.hits(kernel.GSP_SILENT)]
    live = _live(evidence)
    errors = [] if bus or lost or gone or silent else evidence.hits(cuda.SMI_ERR)
    hits = list({hit.entry.place: hit for hit in (*bus, *lost, *gone, *silent, *errors)}.values())
    hanging = _hanging(evidence)
    if not (hits or live or hanging):
        return
    back = not live and hits and _is_back(evidence, hits[-1])
    yield Finding(
        cause="gpu_fell_off_bus",
        title="The GPU has fallen off the bus" if bus or gone else "The GPU no longer answers",
        severity=Severity.WARNING if back else Severity.CRITICAL,
        confidence=min(_confidence(bus, lost, gone, silent, live), 0.7 if back else 1.0),
        evidence=tuple(dict.fromkeys([*live, *hanging, *(hit.quote() for hit in hits[:4])])),
        why=_why(hits, bus, silent) + (" It works again since, and may be lost again." if back else ""),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="gpu_xid_app_fault", why="A program's fault leaves the card alive; this card is silent."
            ),
            RuledOut(
                cause="uvm_module_broken", why="Reloading a module does not help a card that does not answer."
            ),
        ),
        about=xids.card(xids.with_numbers(evidence, xids.SILENT)),
    )


def _confidence(
    bus: list[Hit], lost: list[Hit], gone: list[Hit], silent: list[Hit], live: list[Quote]
) -> float:
    if bus:
        return 0.95
    if live or gone or (lost and silent):
        return 0.9
    if lost:
        return 0.85
    return 0.75 if silent else 0.45


def _is_back(evidence: Evidence, hit: Hit) -> bool:
    """Whether the card answers again, as far as the evidence tells."""
    if evidence.value("nvml.status") == "ok" and evidence.value("gpu.count"):
        return True
    works = evidence.hits(cuda.SMI_WORKS)
    return (
        any(where.comes_after(one.entry, hit.entry) for one in works)
        or where.gpu_after(evidence, hit.entry) is not None
    )


def _live(evidence: Evidence) -> list[Quote]:
    rows = [row for row in evidence.all_readings("nvml.status") if row.value == "GPU_IS_LOST"]
    rows += [
        row
        for row in evidence.all_readings("pci.card")
        if isinstance(row.value, dict) and row.value.get("fallen_off") is True
    ]
    rows += [row for row in evidence.all_readings("gpu.lost") if row.value in _LOST]
    return [evidence.quote_reading(row) for row in rows]


def _hanging(evidence: Evidence) -> list[Quote]:
    """NVML that does not answer: a lost card often shows so, and a sleeping one may."""
    row = evidence.reading("nvml.status")
    return [evidence.quote_reading(row)] if row is not None and row.value == "TIMEOUT" else []


def _why(hits: list[Hit], bus: list[Hit], silent: list[Hit]) -> str:
    told = [hit for hit in hits if hit.match.re is kernel.XID.pattern]
    if bus:
        card = xids.card(told)
        return (
            f"The kernel says that the card{f' {card}' if card else ''} no longer answers on PCIe (Xid 79)."
        )
    if silent and told:
        return f"Xid {xids.in_words(told)}: the card is there and does not work until it is reset."
    if silent:
        return "The card's own firmware (GSP) does not answer the driver."
    return f"NVML or the bus can't reach the card: {len(hits)} lines say so."


RULE = Rule(
    slug="gpu_fell_off_bus",
    title="The GPU fell off the bus",
    area="gpu",
    meaning="The card stopped answering on PCIe, or its own firmware stopped. Every program that "
    "used it dies, and "
    "nvidia-smi fails or hangs until a reboot.",
    signature=(
        "NVRM: Xid (PCI:0000:01:00): 79, … GPU has fallen off the bus",
        "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error",
        "GPU is lost. Reboot the system to recover this GPU",
        "lspci: … NVIDIA … (rev ff)",
        "Xid 119 / 120: Timeout waiting for RPC from GSP; Xid 154: GPU Reset Required",
    ),
    certain="The kernel log has Xid 79, or lspci shows the card with «rev ff».",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="gpu_xid_app_fault", how="Xid 13 or 31: one process died, the card works on."),
        LookAlike(cause="suspend_resume_gpu_lost", how="After a sleep, with code 999, and nvidia-smi works."),
        LookAlike(cause="container_gpu_lost_cgroup", how="nvidia-smi fails in the container only."),
    ),
    check=check,
    signs=where.SIGNS,
    readings=("nvml.status", "pci.card", "gpu.lost"),
    explains=(
        "container_started_without_gpu",
        "gpu_xid_app_fault",
        "gpu_not_visible",
        "uvm_module_broken",
        "gpu_discovery_timeout",
        "driver_not_loaded",
        "runner_crash_bug",
        "gpu_hw_ecc",
        "container_gpu_lost_cgroup",
        "client_timeout_aborts_load",
        "client_timeout_generation",
    ),
    overrules=("gpu_not_visible",),
)
