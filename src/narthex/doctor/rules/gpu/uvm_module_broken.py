"""The kernel module nvidia_uvm is missing or stale: CUDA can't start though the driver is fine."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit, Reading
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda

NODE = "/dev/nvidia-uvm"
NODE_BROKEN = Sign(
    r"/dev/nvidia-uvm\S* .*(?:No such file|Input/output error|No such device|cannot open)"
    r"|(?:cannot access|open|stat) .*/dev/nvidia-uvm\S*.*(?:No such file|Input/output error)"
    r"|(?:Input/output error|No such (?:file or directory|device)).*/dev/nvidia-uvm"
    r"|Module nvidia[_-]uvm not found|could not insert '?nvidia[_-]uvm"
    r"|nvidia[_-]uvm(?:\.ko)?(?: kernel)? (?:module )?(?:is )?not loaded",
    words=["nvidia-uvm", "nvidia_uvm"],
)
IN_LSMOD = Sign(r"^nvidia(?P<uvm>_uvm)? +\d+ +-?\d+(?: .*)?$", words=["nvidia"], kinds=("commands", "dmesg"))

MEANING = "CUDA needs the kernel module nvidia_uvm besides the driver. Without it no program can use the GPU."


_IDLE = (
    "The driver answers, and nvidia_uvm is not loaded. The first program that uses CUDA loads it, "
    "and none that "
    "wants the GPU is seen here: this may be all well."
)


def remedy_for(evidence: Evidence, code: int = 999) -> Remedy:
    """Reload the module, with the names of this machine as far as they are known."""
    users = steps.users_of_gpu(evidence)
    commands = [
        Command(
            text="sudo nvidia-modprobe -u -c=0",
            safe=True,
            root=True,
            note="loads it where it is only missing",
        ),
        Command(
            text="sudo fuser -v /dev/nvidia-uvm",
            safe=True,
            root=True,
            note=f"who holds it: {users}"
            if users
            else "lists who holds it: each must be stopped for a reload",
        ),
        steps.stop_ollama(evidence),
        Command(
            text="sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm",
            safe=False,
            root=True,
            note="every CUDA program must be stopped first: Ollama, ComfyUI, containers with a GPU",
        ),
        steps.restart_ollama(evidence),
        steps.REBOOT,
    ]
    if code == 3:
        commands.insert(
            5,
            Command(
                text="echo 'options nvidia_uvm uvm_disable_hmm=1' | sudo tee /etc/modprobe.d/nvidia-uvm.conf",
                safe=True,
                root=True,
                note="where code 3 comes back after a reload; takes effect with the next load of the module",
            ),
        )
    return Remedy(
        text="Stop what uses the GPU, load nvidia_uvm anew, start Ollama again. Reboot only if that "
        "does not help.",
        commands=tuple(commands),
        verify="Ollama's line «inference compute» names a GPU, and /dev/nvidia-uvm opens for reading "
        "and writing.",
        verify_commands=(
            Command(text="lsmod | grep nvidia_uvm", safe=True),
            Command(text="python3 -c \"open('/dev/nvidia-uvm', 'r+b')\"", safe=True),
            steps.COMPUTE_LINE,
        ),
    )


def check(evidence: Evidence) -> Iterator[Finding]:
    """The module's state itself, or the code by which CUDA tells that it can't start."""
    live = _live(evidence)
    hits = where.standing(evidence, [hit for hit in _hits(evidence) if not where.on_windows(evidence, hit)])
    if not live and not hits:
        return
    if not live and evidence.has(cuda.MISMATCH, cuda.NO_DRIVER):
        return
    idle = bool(live) and not hits and not _is_needed(evidence)
    codes = {int(hit["code"]) for hit in hits if hit.entry.plain and "code" in hit.match.groupdict()}
    quotes = [*live, *(hit.quote() for hit in hits[:2])]
    if hits and (cpu := where.on_cpu(evidence, hits[-1].entry)) is not None:
        quotes.append(cpu.quote())
    works = evidence.first(cuda.SMI_WORKS)
    if works is not None:
        quotes.append(works.quote())
    yield Finding(
        cause="uvm_module_broken",
        title="CUDA can't start: the kernel module nvidia_uvm is missing or stale",
        severity=Severity.INFO if idle else Severity.ERROR,
        confidence=0.45 if idle else _confidence(evidence, bool(live), hits, codes),
        evidence=tuple(quotes[:4]),
        why=_IDLE if idle else _why(bool(live), hits, codes, works is not None),
        remedy=remedy_for(evidence, min(codes, default=999)),
        ruled_out=_ruled_out(evidence, hits),
    )


def _hits(evidence: Evidence) -> list[Hit]:
    missing = _missing_in_lsmod(evidence)
    coded = cuda.with_code(evidence, 999, 3, 304)
    said = evidence.hits(cuda.UNKNOWN, cuda.NOT_INITIALISED, NODE_BROKEN)
    seen = {hit.entry.place for hit in coded}
    return [*coded, *(hit for hit in said if hit.entry.place not in seen), *missing]


def _missing_in_lsmod(evidence: Evidence) -> list[Hit]:
    """A list of modules with nvidia and without nvidia_uvm, though CUDA was used or asked for."""
    rows = [hit for hit in evidence.hits(IN_LSMOD) if hit.match]
    if not rows or any(hit["uvm"] for hit in rows) or evidence.search(r"lsmod *\| *grep.*uvm", "commands"):
        return []
    full = evidence.search(r"^nvidia_(?:modeset|drm) +\d+ +\d+", "commands", "dmesg")
    return rows[:1] if full and where.on_cpu(evidence) is not None else []


def _live(evidence: Evidence) -> list[Quote]:
    if evidence.value("module.nvidia") is not True:
        return []
    rows: list[Reading | None] = []
    if evidence.value("module.nvidia_uvm") is False:
        rows.append(evidence.reading("module.nvidia_uvm"))
    if evidence.value("device.node", NODE) in ("missing", "EIO", "ENODEV", "ENXIO"):
        rows.append(evidence.reading("device.node", NODE))
    if not rows or evidence.value("nvml.status") not in (None, "ok"):
        return []
    if evidence.value("device.node", NODE) == "ok":
        return []
    return [evidence.quote_reading(row) for row in rows if row is not None]


def _is_needed(evidence: Evidence) -> bool:
    """The module is loaded by the first program that uses CUDA: missing it is a fault only after that. A node
    that is there and can't be opened is one always."""
    broken = evidence.value("device.node", NODE) in ("EIO", "ENODEV", "ENXIO")
    return broken or steps.somebody_computes(evidence) or where.on_cpu(evidence) is not None


def _confidence(evidence: Evidence, live: bool, hits: list[Hit], codes: set[int]) -> float:
    if live:
        return 0.95
    if evidence.has(cuda.NVML_UNKNOWN):
        return 0.4
    if any(hit.match.re is NODE_BROKEN.pattern for hit in hits):
        return 0.85 if codes else 0.65
    if codes and codes <= {3, 304}:
        return 0.6
    return 0.85 if evidence.has(cuda.SMI_WORKS) or where.on_cpu(evidence) else 0.75


def _why(live: bool, hits: list[Hit], codes: set[int], works: bool) -> str:
    if live:
        return "The driver is loaded and answers, and nvidia_uvm is not usable: see the readings."
    code = f"code {min(codes)}" if codes else "an unknown error"
    text = f"libcuda was found and refused to start with {code}, {len(hits)} times in this evidence."
    return text + (" nvidia-smi works, so the driver itself is fine." if works else "")


def _ruled_out(evidence: Evidence, hits: list[Hit]) -> tuple[RuledOut, ...]:
    rows = [
        RuledOut(
            cause="driver_library_mismatch",
            why="No line speaks of differing versions; that would be code 803.",
        ),
        RuledOut(
            cause="gpu_not_visible",
            why="Zero devices would be code 100; here CUDA did not get as far as counting.",
        ),
    ]
    if any(hit.entry.kind == "docker_log" or "ollama-" in hit.entry.stream for hit in hits):
        rows.append(
            RuledOut(
                cause="container_started_without_gpu",
                why="libcuda is in the container, so it was started with a GPU.",
            )
        )
    if not evidence.has(cuda.NVML_UNKNOWN):
        rows.append(
            RuledOut(
                cause="container_gpu_lost_cgroup",
                why="A revoked device would be code 800, and NVML would fail.",
            )
        )
    return tuple(rows)


RULE = Rule(
    slug="uvm_module_broken",
    title="nvidia_uvm is missing or stale",
    area="gpu",
    meaning=MEANING
    + " After a sleep, an update or an early start it can be missing or in a bad state, while "
    "nvidia-smi, which does not need it, looks fine.",
    signature=(
        "cuda driver library init failure: 999",
        "cuda driver library failed to get device context 999",
        "ggml_cuda_init: failed to initialize CUDA: unknown error",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
    ),
    certain="nvidia-smi lists the card, and `lsmod | grep nvidia_uvm` is empty or opening "
    "/dev/nvidia-uvm fails. "
    "If it is there and CUDA still says 999, it is stale: load it anew.",
    remedy=remedy_for(Evidence(hits={}, counts={})),
    look_alikes=(
        LookAlike(
            cause="suspend_resume_gpu_lost", how="The same state, and the machine slept before it began."
        ),
        LookAlike(cause="driver_library_mismatch", how="nvidia-smi itself fails, with «version mismatch»."),
        LookAlike(
            cause="container_gpu_lost_cgroup",
            how="Only inside the container, with code 800; nvidia-smi fails there.",
        ),
        LookAlike(cause="gpu_fell_off_bus", how="The kernel log tells of Xid 79; nvidia-smi fails or hangs."),
    ),
    check=check,
    signs=(NODE_BROKEN, IN_LSMOD, *where.SIGNS),
    readings=("module.nvidia", "module.nvidia_uvm", "device.node"),
    explains=("container_started_without_gpu", "gpu_not_visible", "gpu_discovery_timeout"),
    overrules=("gpu_not_visible",),
)
