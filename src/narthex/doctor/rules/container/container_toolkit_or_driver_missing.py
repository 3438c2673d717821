"""Docker can't set up a container with a GPU: toolkit, runtime or driver libraries are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.container import inside
from narthex.doctor.rules.gpu import where
from narthex.doctor.sign import Sign

NO_DRIVER = Sign(
    r"could not select device driver(?: \"?(?P<driver>[^\"]*?)\"?)? with capabilities: ?\[\[?(?P<what>[^\]]*)"
)
NO_RUNTIME = Sign(
    r"unknown or invalid runtime name: nvidia|unknown runtime specified nvidia"
    r"|runtime \"?nvidia\"? (?:is )?not registered"
    r"|\"?nvidia-container-runtime(?:-hook)?\"?: (?:executable file not found|no such file)",
    words=["invalid runtime name", "unknown runtime specified", "nvidia-container-runtime", "not registered"],
)
CLI = Sign(r"nvidia-container-cli(?:\.real)?: (?P<what>.*)", words=["nvidia-container-cli"])
LIBRARY = Sign(
    r"load library failed: (?P<library>libnvidia-ml\.so\S*?|libcuda\.so\S*?):", words=["load library failed"]
)
CDI = Sign(
    r"failed to discover GPU vendor from CDI|unresolvable CDI devices?|no known GPU vendor found"
    r"|CDI device injection failed|failed to inject CDI devices",
    words=["cdi"],
)
STALE_CDI = Sign(r"failed to stat CDI host device \"?(?P<node>[^\":]+)", words=["stat cdi host device"])
NO_CDI_ENGINE = Sign(r"stat nvidia\.com/gpu=\S+: no such file", words=["stat nvidia.com/gpu="])
NVML = Sign(r"initialization error: nvml error: (?P<what>.*)", words=["nvml error"])
TWO_ENGINES = Sign(
    r"snap list \| grep docker|/snap/bin/docker|/var/snap/docker|^docker \d[\d.]+\S* .*canonical"
)
NO_TOOL = Sign(
    r"(?:nvidia-ctk|nvidia-container-toolkit|nvidia-container-cli): (?:command )?not found",
    words=["nvidia-ctk", "nvidia-container"],
)
APPLE = Sign(
    r"\bDarwin\b|macOS|Apple M\d|/Users/\w+|docker-desktop.*mac|colima",
    words=["darwin", "macos", "apple m", "/users/", "colima", "docker-desktop"],
    first=5,
    last=5,
)

# These words of the toolkit are other causes: an old driver, a driver of two versions.
_OTHERS = re.compile(
    r"requirement error|unsatisfied condition|version mismatch|please update your driver", re.IGNORECASE
)
_TEST = Command(
    text="docker run --rm --gpus all ubuntu nvidia-smi", safe=True, note="starts a container and removes it"
)
_DESCRIBE = Command(
    text="nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    safe=True,
    root=True,
    note="writes the description of the GPUs anew",
)
REMEDY = Remedy(
    text=(
        "Install the NVIDIA Container Toolkit, tell Docker of it, and keep one Docker engine on the machine. "
        "The host needs its own driver first."
    ),
    commands=(
        Command(text="nvidia-smi", safe=True, note="on the host: the driver has to answer"),
        Command(
            text="docker info --format '{{json .Runtimes}}'",
            safe=True,
            note="«nvidia» has to be in it",
        ),
        Command(
            text="apt-get install nvidia-container-toolkit",
            safe=False,
            root=True,
            note="from NVIDIA's package source; dnf and zypper likewise",
        ),
        Command(
            text="nvidia-ctk runtime configure --runtime=docker && systemctl restart docker",
            safe=False,
            root=True,
            note="restarts all containers",
        ),
    ),
    verify="A test container lists the card.",
    verify_commands=(_TEST,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The engine's or the toolkit's refusal in so many words; else what collectors saw."""
    refused = next(
        (
            hit
            for sign in (NO_DRIVER, NO_RUNTIME, STALE_CDI, NO_CDI_ENGINE, CDI)
            if (hit := evidence.last(sign)) is not None
        ),
        None,
    )
    if refused is not None and where.gpu_after(evidence, refused.entry, *where.LIBRARIES) is not None:
        return  # a later start got its GPU
    failed = [hit for hit in evidence.hits(LIBRARY, NVML, CLI) if not _other_cause(evidence, hit)]
    missing = evidence.last(NO_TOOL)
    if refused is not None:
        yield _finding(evidence, (refused.quote(),), _why(refused), 0.95)
    elif failed:
        yield _finding(evidence, _quotes(failed), _toolkit(failed[-1]), 0.92 if _is_clear(failed) else 0.7)
    elif missing is not None:
        yield _finding(evidence, (missing.quote(),), "The toolkit's program is not installed.", 0.7)
    else:
        yield from _seen(evidence)


def _other_cause(evidence: Evidence, hit: Hit) -> bool:
    """The reason can stand in the next line, where a terminal wrapped it."""
    near = " ".join(entry.plain for entry in evidence.around(hit.entry, 0, 1))
    return bool(_OTHERS.search(near))


def _is_clear(hits: list[Hit]) -> bool:
    return bool(
        re.search(
            r"load library failed|driver not loaded|no adapters were found|ldcache|cgroup subsystem"
            r"|driver rpc error|nvml error|unknown device",
            hits[-1].entry.plain,
        )
    )


def _why(hit: Hit) -> str:
    text = hit.entry.plain
    if "device driver" in text:
        return (
            "Docker knows nobody that could give a container a GPU: the toolkit is missing or not configured."
        )
    if STALE_CDI.pattern.search(text):
        return (
            "The description of GPUs (CDI) names a device that is not there: it was written before the"
            " driver or the cards changed. «nvidia-ctk cdi generate» writes a new one."
        )
    if NO_CDI_ENGINE.pattern.search(text):
        return "The engine takes the GPU's name for a file: it is too old for CDI (Podman before 4.1)."
    if "CDI" in text or "GPU vendor" in text:
        return (
            "Docker looked for a description of GPUs (CDI) and found none: the toolkit is missing, or it"
            " wrote none."
        )
    return "The runtime «nvidia» is asked for, and Docker does not know it."


def _toolkit(hit: Hit) -> str:
    text = hit.entry.plain
    if found := re.search(r"load library failed: (\S+?):", text):
        return (
            f"The toolkit is there, but it does not find the driver's library {found[1]}: no driver on this"
            " host, or an engine (snap, a virtual machine) that does not see the host's libraries."
        )
    if "driver not loaded" in text:
        return "The toolkit is there, but the host's driver is not loaded."
    if "insufficient permissions" in text.lower():
        return "The driver refused the toolkit: who started the container may not open the card's nodes."
    if "no adapters were found" in text:
        return "Windows hands no GPU to WSL: its driver is missing or too old."
    return "The toolkit could not set up the container's GPU."


def _quotes(hits: list[Hit]) -> tuple[Quote, ...]:
    return tuple(dict.fromkeys((hits[0].quote(), hits[-1].quote())))


def _seen(evidence: Evidence) -> Iterator[Finding]:
    """A container wants a GPU and does not run, and nothing could give it one."""
    toolkit = evidence.reading("docker.toolkit")
    if toolkit is None or toolkit.value is None or evidence.value("docker.engine") != "ok":
        return
    able = (
        toolkit.value or evidence.value("docker.cdi") or "nvidia" in (evidence.value("docker.runtimes") or ())
    )
    waiting = [
        row
        for row in evidence.all_readings("container")
        if row.value and row.value.get("gpu_request") and row.value.get("state") != "running"
    ]
    if waiting and not able:
        row = waiting[0]
        yield _finding(
            evidence,
            (evidence.quote_reading(row), evidence.quote_reading(toolkit)),
            f"Container {row.about} asks for a GPU and does not run; no toolkit was found on this machine.",
            0.8,
        )
    installs = evidence.reading("docker.installs")
    if waiting and able and installs is not None and len(installs.value or ()) > 1:
        yield _finding(
            evidence,
            (evidence.quote_reading(waiting[0]), evidence.quote_reading(installs)),
            f"Two Docker engines are installed ({', '.join(installs.value)}); the one in use need not be the"
            " one that the toolkit was set up for.",
            0.5,
        )


def _finding(evidence: Evidence, quotes: tuple[Quote, ...], why: str, confidence: float) -> Finding:
    steps = list(REMEDY.commands)
    snap = evidence.last(TWO_ENGINES)
    if snap is not None:
        quotes = (*quotes, snap.quote())
        why += " Docker from snap is named here: beside another one, the wrong engine may be the one in use."
        steps.insert(
            0,
            Command(
                text="snap remove docker", safe=False, root=True, note="keep one engine; its containers go"
            ),
        )
    if evidence.has(STALE_CDI):
        steps.insert(0, _DESCRIBE)
    apple = evidence.last(APPLE)
    if apple is not None:
        quotes = (*quotes, apple.quote())
        why += " On a Mac Docker has no NVIDIA GPU at all."
        steps = [Command(text="Run Ollama itself on the Mac, and the container without --gpus", safe=False)]
    return Finding(
        cause="container_toolkit_or_driver_missing",
        title="Docker can't give a container the GPU",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=tuple(steps),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=(
            RuledOut(cause="container_started_without_gpu", why="A GPU was asked for; the engine refused."),
            RuledOut(cause="container_gpu_lost_cgroup", why="The container did not start at all."),
        ),
    )


RULE = Rule(
    slug="container_toolkit_or_driver_missing",
    title="Docker can't set up GPU containers",
    area="container",
    meaning=(
        "A container asks for a GPU, and Docker has no means to give it: toolkit, runtime or driver are"
        " missing."
    ),
    signature=(
        'could not select device driver "" with capabilities: [[gpu]]',
        "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1",
        "unknown or invalid runtime name: nvidia",
        "failed to discover GPU vendor from CDI",
    ),
    certain="docker run --rm --gpus all ubuntu nvidia-smi fails with the same words.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="driver_too_old", how="The toolkit says «unsatisfied condition: cuda>=…»."),
        LookAlike(cause="driver_library_mismatch", how="The toolkit says «driver/library version mismatch»."),
        LookAlike(cause="container_started_without_gpu", how="The container runs; nobody asked for a GPU."),
    ),
    signs=(
        NO_DRIVER,
        NO_RUNTIME,
        CLI,
        LIBRARY,
        CDI,
        STALE_CDI,
        NO_CDI_ENGINE,
        NVML,
        TWO_ENGINES,
        NO_TOOL,
        APPLE,
        *inside.SIGNS,
        *where.SIGNS,
    ),
    check=check,
    readings=("docker.engine", "docker.toolkit"),
    explains=("ollama_unreachable", "owui_cannot_reach_ollama", "comfyui_unreachable"),
)
