"""The GPU's library loads and finds no card; nothing tells why."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.signs import cuda, kernel
from narthex.doctor.story import starts

REMEDY = Remedy(
    text="See where the card gets lost: on the bus, in the kernel, in the permissions or in the environment.",
    commands=(
        Command(
            text="lspci -nnk | grep -iA3 -E 'vga|3d|display'",
            safe=True,
            note="is it there, and with which driver",
        ),
        steps.KERNEL_LOG,
        steps.SMI_LIST,
        Command(
            text="ls -l /dev/nvidia* /dev/dri /dev/kfd; id ollama",
            safe=True,
            note="do the nodes exist, and may the service's user open them",
        ),
        Command(
            text="systemctl show ollama -p Environment -p DeviceAllow -p PrivateDevices",
            safe=True,
            note="a variable or the unit's sandbox can hide it; for a container: no-cgroups, devices",
        ),
        steps.RESTART_OLLAMA,
        Command(
            text="sudo poweroff, then power on",
            safe=False,
            root=True,
            note="for a card that lspci does not show: power plugs, riser, external case, firmware settings",
        ),
    ),
    verify="nvidia-smi -L lists the card, and Ollama's line «inference compute» names it.",
    verify_commands=(steps.SMI_LIST, steps.COMPUTE_LINE),
)


PERMISSION = Remedy(
    text="The card is there, and its nodes may not be opened. Find out who forbids it: SELinux, the group of "
    "the nodes, or a toolkit that leaves control groups alone (no-cgroups).",
    commands=(
        Command(text="ls -lZ /dev/nvidia*; id; getenforce", safe=True),
        Command(
            text="grep no-cgroups /etc/nvidia-container-runtime/config.toml",
            safe=True,
            note="«true» is for rootless containers; with Docker as root it must be false",
        ),
        Command(
            text="docker run --rm --gpus all --security-opt label=disable ubuntu nvidia-smi -L",
            safe=True,
            note="a try without SELinux's labels, in a container that is removed again",
        ),
        Command(
            text="sudo setsebool -P container_use_devices on",
            safe=False,
            root=True,
            note="where that try works: lets containers use devices",
        ),
    ),
    verify="nvidia-smi -L lists the card, in the container too.",
    verify_commands=(steps.SMI_LIST, steps.COMPUTE_LINE),
)
_FORBIDDEN = (
    "NVML was refused: the driver is loaded, and who asked may not open the card's nodes. A container that "
    "was just started has lost nothing; it was never allowed to."
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Zero devices, in any program's words; or a card that works everywhere but in Ollama."""
    fresh = [hit for hit in evidence.hits(cuda.NVML_UNKNOWN) if where.in_fresh_container(evidence, hit.entry)]
    if evidence.has(cuda.NVML_UNKNOWN) and not (evidence.live or fresh):
        return  # revoked inside a container: another rule's
    forbidden = where.standing(evidence, [*fresh, *evidence.hits(cuda.NVML_FORBIDDEN)])
    hits = [*forbidden, *where.standing(evidence, _none_found(evidence))]
    live = _live(evidence)
    elsewhere = [] if hits or live else _works_elsewhere(evidence)
    if not (hits or live or elsewhere):
        return
    failed = evidence.hits(kernel.INIT_FAILED)
    not_ready = evidence.hits(cuda.NOT_READY)
    quotes = [*live, *(hit.quote() for hit in (*hits[:3], *failed[:1])), *elsewhere]
    if hits and (cpu := where.on_cpu(evidence, hits[-1].entry)) is not None:
        quotes.append(cpu.quote())
    yield Finding(
        cause="gpu_not_visible",
        title="The GPU's library finds no card",
        severity=Severity.ERROR,
        confidence=_confidence(evidence, hits, live),
        evidence=tuple(dict.fromkeys(quotes))[:5],
        why=_FORBIDDEN if forbidden else _why(bool(failed), bool(not_ready), bool(elsewhere)),
        remedy=PERMISSION if forbidden else REMEDY,
        ruled_out=(
            RuledOut(
                cause="uvm_module_broken", why="That is an error at the start (999); here the count is zero."
            ),
            RuledOut(cause="driver_library_mismatch", why="No line speaks of differing versions."),
        ),
    )


def _none_found(evidence: Evidence) -> list[Hit]:
    said = evidence.hits(cuda.NO_DEVICE, cuda.NO_DEVICES_FOUND, cuda.NOT_READY, kernel.INIT_FAILED, cuda.BUSY)
    coded = cuda.with_code(evidence, 46, 100, 802)
    found = list({hit.entry.place: hit for hit in (*said, *coded)}.values())
    if where.cpu_is_meant(evidence):
        found = [hit for hit in found if hit.match.re is not cuda.NO_DEVICE.pattern]
    if where.any_gpu(evidence, "cuda", "rocm", "metal"):  # another maker's probe finds nothing, rightly
        found = [hit for hit in found if "rocm" not in hit.entry.plain.lower()]
    return found


def _live(evidence: Evidence) -> list[Quote]:
    """A card on the bus, a loaded driver, and NVML lists none."""
    cards, count = evidence.reading("pci.nvidia"), evidence.reading("gpu.count")
    if not (cards and cards.value and evidence.value("module.nvidia") is True):
        return []
    status = evidence.reading("nvml.status")
    if status is not None and status.value in ("UNKNOWN", "NO_PERMISSION"):
        return [evidence.quote_reading(cards), evidence.quote_reading(status)]
    if count is not None and count.value == 0 and evidence.value("nvml.status") in ("ok", "NO_DEVICE"):
        return [evidence.quote_reading(cards), evidence.quote_reading(count)]
    return []


def _works_elsewhere(evidence: Evidence) -> list[Quote]:
    """nvidia-smi shows a card and Ollama's last start found none, both on the host."""
    last = sorted(starts(evidence), key=lambda start: start.at or 0.0)[-1:]
    if not last or not last[0].only_cpu or evidence.has_kind("docker_log") or _in_container(evidence):
        return []
    line = last[0].devices[-1].entry
    count = evidence.reading("gpu.count")
    if count is not None and count.value and evidence.value("nvml.status") == "ok":
        return [line.quote(), evidence.quote_reading(count)]
    shown = evidence.first(cuda.SMI_WORKS, kernel.LSPCI_NVIDIA)
    return [line.quote(), shown.quote()] if shown is not None else []


def _in_container(evidence: Evidence) -> bool:
    return evidence.value("ollama.place") == "container" or bool(steps.ollama_container(evidence))


def _confidence(evidence: Evidence, hits: list[Hit], live: list[Quote]) -> float:
    if live:
        return 0.9
    if not hits:
        return 0.5
    if all(hit.match.re is cuda.BUSY.pattern or hit.match.groupdict().get("code") == "46" for hit in hits):
        return 0.45  # found and not usable: another process, a mode, or a fault before it
    return 0.75 if where.on_cpu(evidence) or len(hits) > 1 or evidence.has(kernel.INIT_FAILED) else 0.65


def _why(failed: bool, not_ready: bool, elsewhere: bool) -> str:
    if failed:
        return "The kernel's driver could not start the card (RmInitAdapter failed), so it lists none."
    if not_ready:
        return (
            "CUDA says that the system is not initialised yet: on machines with NVSwitch the "
            "fabric manager must run."
        )
    if elsewhere:
        return "The card is shown outside, and Ollama's last start found none; its log does not say why."
    return "The library loads and counts no usable card; no line tells the deeper reason."


RULE = Rule(
    slug="gpu_not_visible",
    title="The GPU is not visible",
    area="gpu",
    meaning="The driver's library loads and finds no card. The deeper reason is not in the evidence: "
    "the card may be "
    "off the bus or without power, its nodes may be missing or forbidden, or it started after Ollama.",
    signature=(
        "no nvidia devices detected by library …",
        "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
        "nvidia-smi: No devices were found",
        "NVRM: GPU 0000:01:00.0: RmInitAdapter failed!",
    ),
    certain="Go from below: `lspci`, then `dmesg`, then `nvidia-smi -L` as root and as the service's user.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="uvm_module_broken", how="CUDA fails with 999 before it counts."),
        LookAlike(
            cause="container_gpu_lost_cgroup", how="Only inside a container, and it worked before there."
        ),
        LookAlike(
            cause="container_started_without_gpu", how="The container never had a card; the host uses it."
        ),
        LookAlike(cause="gpu_hidden_by_env", how="A variable of visible devices is set."),
        LookAlike(cause="gpu_fell_off_bus", how="It worked, then the kernel log tells of Xid 79."),
    ),
    check=check,
    signs=where.SIGNS,
    readings=("pci.nvidia", "gpu.count", "nvml.status"),
)
