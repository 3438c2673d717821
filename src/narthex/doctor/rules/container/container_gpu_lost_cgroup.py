"""The container had the GPU, and lost the right to it while it ran."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.container import inside
from narthex.doctor.rules.gpu import where
from narthex.doctor.rules.memory import torch_oom
from narthex.doctor.sign import Sign
from narthex.doctor.story import loads, starts

NVML = Sign(
    r"(?:Failed to initialize NVML|nvml\w* .*fail\w*|NVML(?: init\w*)? (?:error|failed)): ?Unknown Error",
    words=["unknown error"],
)
NOT_PERMITTED = Sign(
    r"device context 800(?!\d)|(?:init failure|initialization failed|returned|CUDA error)[: ]+800(?!\d)"
    r"|CUDA_ERROR_NOT_PERMITTED|cudaErrorNotPermitted|CUDA\w*:? operation not permitted",
    words=[
        "device context 800",
        "failure: 800",
        "failed: 800",
        "returned 800",
        "error 800",
        "error: 800",
        "not_permitted",
        "cudaerrornotpermitted",
        "operation not permitted",
    ],
)
DENIED = Sign(
    r"/dev/nvidia\S*: Operation not permitted|Operation not permitted.*?/dev/nvidia", words=["/dev/nvidia"]
)
# The journal's «systemd[1]: » is taken off as what carried the line here.
RELOAD = Sign(
    r"^(?:systemd\[1\]: )?Reloading(?: requested from client|\.\.\.|…|\.$)|daemon-reload"
    r"|systemd\[1\]: Reloading",
    words=["reloading", "daemon-reload"],
)
UNREFRESHED = Sign(r"unable to refresh free memory, using old values")
NO_GPUS = Sign(
    r"No CUDA GPUs are available|CUDA unknown error - this may be due to",
    words=["no cuda gpus", "cuda unknown error"],
)

REMEDY = Remedy(
    text=(
        "Restart the container: it gets the card back. So that it stays: give the devices through CDI, or let"
        " Docker manage control groups itself. systemd's reload takes the right away otherwise."
    ),
    commands=(
        Command(text="docker restart CONTAINER", safe=False, note="interrupts what it is doing"),
        Command(
            text=(
                "docker inspect -f '{{.HostConfig.CgroupParent}}' CONTAINER; docker info -f"
                " '{{.CgroupDriver}}'"
            ),
            safe=True,
        ),
        Command(
            text=(
                "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, and start with "
                "--device nvidia.com/gpu=all"
            ),
            safe=False,
            root=True,
        ),
        Command(
            text=(
                'or /etc/docker/daemon.json: "exec-opts": ["native.cgroupdriver=cgroupfs"], then restart'
                " Docker"
            ),
            safe=False,
            root=True,
            note="check the file: python3 -m json.tool /etc/docker/daemon.json",
        ),
    ),
    verify="After «systemctl daemon-reload» nvidia-smi inside the container still lists the card.",
    verify_commands=(Command(text="docker exec CONTAINER nvidia-smi -L", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Permission refused where the card itself is well; with the reload that did it, if that is told."""
    nvml = _last(evidence, NVML)
    refused = [hit for hit in (_last(evidence, NOT_PERMITTED), _last(evidence, DENIED)) if hit is not None]
    reload_ = evidence.last(RELOAD)
    empty = [one for one in torch_oom.torch_ooms(evidence) if one.is_empty]
    hits = [hit for hit in (nvml, *refused) if hit is not None]
    if hits:
        extra = [
            hit for hit in (reload_, evidence.last(NO_GPUS), evidence.last(torch_oom.OOM)) if hit is not None
        ]
        yield _finding(
            evidence,
            [*hits, *extra],
            _why(evidence, hits, reload_),
            _confidence(evidence, nvml, refused, reload_),
        )
    elif empty:
        yield _of_empty(evidence, empty[-1])
    elif (lost := _lost(evidence)) is not None:
        yield lost


def _last(evidence: Evidence, sign: Sign) -> Hit | None:
    """The last such line, unless a start found a GPU after it. «ollama ps» says GPU of a lost one, too."""
    hit = evidence.last(sign)
    over = hit is not None and where.gpu_after(evidence, hit.entry, *where.LIBRARIES) is not None
    return None if over or (hit is not None and where.in_fresh_container(evidence, hit.entry)) else hit


def _confidence(evidence: Evidence, nvml: Hit | None, refused: list[Hit], reload_: Hit | None) -> float:
    contained = inside.is_contained(evidence)
    if reload_ is not None or (nvml is not None and refused) or inside.host_gpu_works(evidence):
        return 0.95
    if refused:
        return 0.93 if contained else 0.85
    return 0.9 if contained else 0.75


def _why(evidence: Evidence, hits: list[Hit], reload_: Hit | None) -> str:
    text = " ".join(hit.entry.plain for hit in hits)
    parts = []
    if NVML.pattern.search(text):
        parts.append(
            "NVML answers «Unknown Error», which is how a forbidden device looks from inside a container"
        )
    if NOT_PERMITTED.pattern.search(text) or DENIED.pattern.search(text):
        parts.append("the driver answers 800, «not permitted»: the card is there, the right to it is not")
    if inside.host_gpu_works(evidence):
        parts.append("on the host nvidia-smi works")
    if reload_ is not None:
        parts.append("systemd reloaded its units before, which takes devices away that Docker had added")
    if torch_oom.torch_ooms(evidence):
        parts.append("the «out of memory» is its echo, not its cause")
    why = "; ".join(parts) + "."
    return why[0].upper() + why[1:]


def _of_empty(evidence: Evidence, report: torch_oom.TorchOom) -> Finding:
    return _finding(
        evidence,
        list(report.hits[:4]),
        "PyTorch says «out of memory» while it holds nothing itself and no other process is to blame: the"
        " card was not full. A container that lost the right to the card fails in this way.",
        0.6,
    )


def _lost(evidence: Evidence) -> Finding | None:
    """The GPU was there, and later it is not, and no error of the driver is told."""
    begun = starts(evidence)
    dark = evidence.last(UNREFRESHED)
    last = loads(evidence)[-1:]
    if dark is not None and last and inside.is_contained(evidence, dark.entry):
        had = [one for one in begun if one.gpus and one.source == dark.entry.source]
        if had and last[0].layers_on == 0 and last[0].entry.line > dark.entry.line:
            return _finding(
                evidence,
                [dark],
                "Ollama had the GPU when it started. Later it could not ask it any more; the next load put "
                "no layer on it.",
                0.6,
                (had[-1].gpus[0].entry.quote(), last[0].last.quote()),
            )
    for before, after in pairwise(begun):
        same = before.source == after.source and before.stream == after.stream
        back = where.gpu_after(evidence, after.entry)
        if (
            same
            and before.gpus
            and after.only_cpu
            and not back
            and inside.is_contained(evidence, after.entry)
        ):
            return _finding(
                evidence,
                [],
                "An earlier start in this log had the GPU, this one only the CPU, and Ollama tells no error"
                " of the driver.",
                0.42,
                (before.gpus[0].entry.quote(), after.devices[0].entry.quote()),
            )
    return None


def _finding(
    evidence: Evidence, hits: list[Hit], why: str, confidence: float, quotes: tuple[Quote, ...] = ()
) -> Finding:
    role = "comfyui" if any(hit.entry.kind == "comfyui_log" for hit in hits) else "ollama"
    name = inside.name_of(evidence, role)
    known = name != "CONTAINER"
    return Finding(
        cause="container_gpu_lost_cgroup",
        title=(
            f"Container {name} lost its right to the GPU"
            if known
            else "The container lost its right to the GPU"
        ),
        severity=Severity.CRITICAL if confidence > 0.5 else Severity.WARNING,
        confidence=confidence,
        evidence=tuple(dict.fromkeys((*quotes, *(hit.quote() for hit in hits)))),
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=tuple(
                Command(
                    text=step.text.replace("CONTAINER", name), safe=step.safe, root=step.root, note=step.note
                )
                for step in REMEDY.commands
            ),
            verify=REMEDY.verify,
            verify_commands=(
                Command(
                    text=f"docker exec {name} nvidia-smi -L",
                    safe=True,
                    argv=("docker", "exec", name, "nvidia-smi", "-L") if known else (),
                ),
            ),
        ),
        ruled_out=(
            RuledOut(cause="uvm_module_broken", why="That one answers 999, and nvidia-smi works."),
            RuledOut(cause="comfyui_vram_oom", why="The card is not full; it may not be touched."),
        ),
        about=name if known else "",
    )


RULE = Rule(
    slug="container_gpu_lost_cgroup",
    title="The container lost its GPU",
    area="container",
    meaning=(
        "Docker had allowed the devices in the container's control group. A reload of systemd set its own"
        " list again, without them. Programs that run keep their open card for a while; new ones get nothing."
    ),
    signature=(
        "Failed to initialize NVML: Unknown Error (inside; outside it works)",
        "cuda driver library failed to get device context 800",
        "out of memory at once, on an empty card",
    ),
    certain="nvidia-smi works on the host and fails inside, and a restart of the container brings it back.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="container_started_without_gpu",
            how="It never had one; nvidia-smi is not even there inside.",
        ),
        LookAlike(cause="uvm_module_broken", how="Code 999; nvidia-smi works also inside."),
        LookAlike(cause="comfyui_vram_oom", how="The card is really full, and nvidia-smi inside works."),
        LookAlike(cause="driver_library_mismatch", how="NVML says so: «Driver/library version mismatch»."),
    ),
    signs=(
        NVML,
        UNREFRESHED,
        NOT_PERMITTED,
        DENIED,
        RELOAD,
        NO_GPUS,
        *torch_oom.SIGNS,
        *inside.SIGNS,
        *where.SIGNS,
    ),
    check=check,
    explains=("vram_not_recovered", "partial_offload_slow", "gpu_not_visible", "comfyui_job_failed"),
    overrules=(
        "comfyui_vram_oom",
        "vram_oom_on_load",
        "vram_oom_in_generation",
        "vram_contention_other_process",
        "vram_contention_comfyui_ollama",
        "keep_alive_holds_vram",
    ),
)
