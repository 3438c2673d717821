"""The machine slept, and CUDA can't start since."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where, xids
from narthex.doctor.rules.gpu.uvm_module_broken import remedy_for
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel

PARAMS = Sign(
    r"(?P<name>PreserveVideoMemoryAllocations|DynamicPowerManagement)\"?: ?(?P<value>\d+)",
    words=["preservevideomemoryallocations", "dynamicpowermanagement"],
)
_ZONES_S, _MONTH_S = 14 * 3600, 30 * 86400
OPTIONS = (
    "options nvidia NVreg_PreserveVideoMemoryAllocations=1 NVreg_TemporaryFilePath=/var/tmp "
    "NVreg_DynamicPowerManagement=0x00"
)


def _remedy(evidence: Evidence) -> Remedy:
    now = remedy_for(evidence)
    return Remedy(
        text="Now: stop what uses the GPU and load nvidia_uvm anew. For good: let the driver keep "
        "video memory "
        "over a sleep, and do not let it power the card down.",
        commands=(
            *now.commands[:-1],
            Command(
                text=f"echo '{OPTIONS}' | sudo tee /etc/modprobe.d/nvidia-power.conf",
                safe=True,
                root=True,
                note="then rebuild the initramfs (update-initramfs -u, dracut -f or mkinitcpio -P); "
                "needs a reboot",
            ),
            Command(
                text="sudo systemctl enable nvidia-suspend nvidia-resume nvidia-hibernate",
                safe=True,
                root=True,
                note="the driver's own services; without them the option above stops the machine "
                "from sleeping",
            ),
            Command(
                text="A hook in /usr/lib/systemd/system-sleep that stops Ollama before a sleep, "
                "reloads nvidia_uvm "
                "after it and starts Ollama",
                safe=True,
                root=True,
                note="where the driver's services do not help",
            ),
            steps.REBOOT,
        ),
        verify="Let the machine sleep and wake, then load a model: the line «inference compute» "
        "names the GPU.",
        verify_commands=(
            Command(text="grep -E 'Preserve|DynamicPower' /proc/driver/nvidia/params", safe=True),
            steps.COMPUTE_LINE,
        ),
    )


def check(evidence: Evidence) -> Iterator[Finding]:
    """CUDA fails as it does with a bad nvidia_uvm, and a sleep stands before it."""
    faults = where.standing(
        evidence,
        [*cuda.with_code(evidence, 999, 3), *evidence.hits(cuda.UNKNOWN, cuda.UNKNOWN_WHILE_WORKING)],
    )
    own = evidence.hits(kernel.SLEEP_FAULT)
    live = _live_fault(evidence)
    asleep = _sleeps(evidence, faults)
    if not (faults or own or live) or not (asleep or own):
        return
    marks = evidence.hits(PARAMS)
    xids = [hit for hit in evidence.hits(kernel.XID) if hit["number"] == "31"]
    quotes = [hit.quote() for hit in (*faults[:1], *own[:1], *asleep[-2:], *xids[:1], *marks[:1])]
    sure = (
        0.9 if (faults or live) and evidence.has(kernel.SLEEP, kernel.SLEEP_TOLD) else 0.75 if faults else 0.6
    )
    yield Finding(
        cause="suspend_resume_gpu_lost",
        title="The GPU is lost since the machine slept",
        severity=Severity.ERROR,
        confidence=sure,
        evidence=tuple([*live, *quotes][:5]),
        why=_why(faults, asleep, marks),
        remedy=_remedy(evidence),
        ruled_out=(
            RuledOut(
                cause="uvm_module_broken",
                why="That is the state it is in; the sleep is what brings it about.",
            ),
            *_not_lost(evidence),
        ),
    )


def _not_lost(evidence: Evidence) -> tuple[RuledOut, ...]:
    if xids.card_is_lost(evidence):
        return ()
    return (RuledOut(cause="gpu_fell_off_bus", why="No Xid 79 and no lost card is told of."),)


def _sleeps(evidence: Evidence, faults: list[Hit]) -> list[Hit]:
    """Sleeps that are not later than the last fault."""
    found = evidence.hits(kernel.SLEEP, kernel.SLEEP_TOLD, kernel.POWERED_DOWN)
    return [hit for hit in found if not faults or not _surely_after(hit.entry, faults[-1].entry)]


def _surely_after(one: Entry, other: Entry) -> bool:
    """Kernel logs tell neither year nor zone: between two texts only some distance counts."""
    if one.source == other.source or one.at is None or other.at is None:
        return where.comes_after(one, other)
    return _ZONES_S < one.at - other.at < _MONTH_S


def _live_fault(evidence: Evidence) -> list[Quote]:
    row = evidence.reading("device.node", "/dev/nvidia-uvm")
    if row is None or row.value not in ("EIO", "ENODEV", "ENXIO"):
        return []
    return [evidence.quote_reading(row)]


def _why(faults: list[Hit], asleep: list[Hit], marks: list[Hit]) -> str:
    text = "CUDA can't start" if faults else "The driver complains about the sleep"
    if asleep and all(hit.match.re is kernel.POWERED_DOWN.pattern for hit in asleep):
        text += ", and the card is powered down by runtime power management"
    elif asleep:
        text += f", and {len(asleep)} lines before it tell of sleeping or waking"
    values = {hit["name"]: hit["value"] for hit in marks}
    if values.get("PreserveVideoMemoryAllocations") == "0":
        text += "; the driver does not keep video memory over a sleep (PreserveVideoMemoryAllocations is 0)"
    return text + "."


RULE = Rule(
    slug="suspend_resume_gpu_lost",
    title="The GPU is lost after a sleep",
    area="gpu",
    meaning="Suspend, hibernation or power saving of the card threw away state that nvidia_uvm "
    "still counts on. "
    "Until the module is loaded anew, CUDA can't start, and Ollama computes on the CPU.",
    signature=(
        "kernel: PM: suspend exit, then cuda driver library init failure: 999",
        "cuda driver library failed to get device context 999, runtime_status suspended",
        "System Power Management attempted without driver procfs suspend interface",
    ),
    certain="The kernel log has a sleep between the last use of the GPU and the first failure, and reloading "
    "nvidia_uvm helps.",
    remedy=_remedy(Evidence(hits={}, counts={})),
    look_alikes=(
        LookAlike(cause="uvm_module_broken", how="The same failure, and the machine never slept."),
        LookAlike(
            cause="gpu_fell_off_bus", how="The card does not answer at all: Xid 79, lspci shows rev ff."
        ),
    ),
    check=check,
    signs=(PARAMS, *where.SIGNS),
    readings=("device.node",),
    explains=(
        "container_started_without_gpu",
        "uvm_module_broken",
        "gpu_not_visible",
        "gpu_xid_app_fault",
        "gpu_discovery_timeout",
        "runner_crash_bug",
    ),
    overrules=("uvm_module_broken", "gpu_not_visible"),
)
