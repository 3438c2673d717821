"""The container never had a GPU: nobody asked for one when it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.container import inside
from narthex.doctor.sign import Sign
from narthex.doctor.story import Start, loads, starts

NO_SMI = Sign(
    r"exec:? \"?nvidia-smi\"?: executable file not found|nvidia-smi: (?:command )?not found|\"nvidia-smi\":"
    r" executable file not found",
    words=["nvidia-smi"],
)
BANNER = Sign(r"The NVIDIA Driver was not detected\. +GPU functionality will not be available")
# Docker's own note: in its JSON, or asked for with a format, where the answer is the next line.
_NONE = r"(?:null|nil|none|\[\]|<no value>|<nil>)"
REQUESTS = Sign(rf"DeviceRequests\b(?P<none>\W{{0,8}}{_NONE}(?!\w))?")
NO_DRIVER = Sign(r"Found no NVIDIA driver on your system")
RUN = Sign(
    r"\b(?:docker|podman) (?:run|create)\b.*(?:ollama|comfy)\S*",
    words=["docker run", "docker create", "podman"],
)
COMPOSE = Sign(r"^-? ?image: \S*(?:ollama/ollama|comfyui)\S*", words=["image: "])
ASKED = Sign(
    r"--gpus\b|--runtime[= ]nvidia|nvidia\.com/gpu|capabilities: ?\[.*gpu|driver: nvidia"
    r"|runtime: nvidia|gpus: all|--device[= ]/dev/(?:kfd|dri|nvidia)|/dev/kfd|\"DeviceRequests\": ?\[(?!\])",
    words=[
        "--gpus",
        "--runtime",
        "nvidia.com/gpu",
        "capabilities:",
        "driver: nvidia",
        "runtime: nvidia",
        "gpus: all",
        "--device",
        "/dev/kfd",
        "devicerequests",
    ],
    first=40,
    last=40,
)
# Ollama's own words for a card that is there and fails: then a GPU was asked for.
SEEN = Sign(
    r"init failure|device context \d+|no nvidia devices detected|Unable to load|unknown error initializing"
    r"|failure during (?:llama-server )?GPU discovery|Unknown Error|amdgpu",
    first=20,
    last=20,
    words=[
        "init failure",
        "device context",
        "no nvidia devices",
        "unable to load",
        "unknown error",
        "gpu discovery",
        "amdgpu",
    ],
)

_RUN_GPU = re.compile(r"--gpus|--runtime[= ]nvidia|--device|nvidia\.com/gpu")
REMEDY = Remedy(
    text="Make the container again, and ask for the GPU. What is in its volumes stays.",
    commands=(
        Command(
            text="docker inspect -f '{{json .HostConfig.DeviceRequests}} {{.HostConfig.Runtime}}' CONTAINER",
            safe=True,
            note="null and runc: nobody asked",
        ),
        Command(
            text=(
                "docker run … --gpus all … (Compose: deploy.resources.reservations.devices, "
                "or «gpus: all»), then remove the old container"
            ),
            safe=False,
        ),
        Command(
            text="For AMD: the image ollama/ollama:rocm with --device /dev/kfd --device /dev/dri", safe=False
        ),
    ),
    verify="nvidia-smi inside the container lists the card, and «inference compute» names it.",
    verify_commands=(Command(text="docker exec CONTAINER nvidia-smi -L", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Docker says that nobody asked; or signs of it, where the host has a card and the container none."""
    if _used(evidence):
        return
    yield from _seen(evidence)
    if evidence.all_readings("container"):
        return
    signs = _signs(evidence)
    begun = [start for start in starts(evidence) if start.only_cpu]
    if not signs:
        if (
            begun
            and evidence.has_kind("docker_log")
            and inside.host_gpu_works(evidence)
            and not evidence.has(SEEN, ASKED)
        ):
            head = evidence.first(inside.SMI, inside.SMI_LIST)
            quotes = (begun[-1].devices[0].entry.quote(), *((head.quote(),) if head else ()))
            yield _finding(
                evidence,
                quotes,
                "The host's nvidia-smi shows the card; the container's Ollama sees only the CPU, "
                "from its first start on, and tells no error.",
                0.6,
            )
        return
    strong = [hit for hit in signs if _is_strong(hit)]
    confidence = (
        0.9 if strong and (begun or len(signs) > 1) else 0.8 if strong or (begun and len(signs) > 1) else 0.65
    )
    if not begun and not strong and not evidence.has(inside.SMI, inside.SMI_LIST):
        confidence = 0.4
    quotes = (*(hit.quote() for hit in signs[:3]), *_cpu(begun))
    yield _finding(evidence, quotes, _why(signs, begun), confidence)


def _used(evidence: Evidence) -> bool:
    """Whether a start in a container, or a load there, had the GPU: then it was given one."""
    return any(start.gpus for start in starts(evidence)) or any(
        load.layers_on and load.signs_of_gpu for load in loads(evidence)
    )


def _signs(evidence: Evidence) -> list[Hit]:
    """What says that nobody asked for a GPU."""
    rows = [hit for hit in evidence.hits(REQUESTS, BANNER) if _is_none(evidence, hit)]
    smi = [hit for hit in evidence.hits(NO_SMI) if _of_container(evidence, hit)]
    runs = [hit for hit in evidence.hits(RUN) if not _RUN_GPU.search(_whole(evidence, hit))]
    if evidence.has(ASKED) and not (rows or smi):
        return []  # asked for, and perhaps refused or failing: other causes
    compose = [] if evidence.has(ASKED) else evidence.hits(COMPOSE)
    driver = [hit for hit in evidence.hits(NO_DRIVER) if inside.is_contained(evidence, hit.entry)]
    found = [*rows, *smi, *driver]
    if starts(evidence) or found or inside.host_gpu_works(evidence):
        cpu = any(start.only_cpu for start in starts(evidence))
        found += [*runs, *compose] if cpu or found else []
    return found


def _is_none(evidence: Evidence, hit: Hit) -> bool:
    if "DeviceRequests" not in hit.entry.plain or hit.match.groupdict().get("none"):
        return True
    below = [entry for entry in evidence.around(hit.entry, 0, 2)[1:] if entry.plain]
    return bool(below) and re.match(rf"{_NONE}(?!\w)", below[0].plain, re.IGNORECASE) is not None


def _whole(evidence: Evidence, hit: Hit) -> str:
    """A command with its continued lines."""
    text = hit.entry.plain
    for entry in evidence.around(hit.entry, 0, 12)[1:]:
        if not text.rstrip().endswith("\\"):
            break
        text = text.rstrip().rstrip("\\") + " " + entry.plain
    return text


def _of_container(evidence: Evidence, hit: Hit) -> bool:
    """nvidia-smi is missing inside: asked through docker exec, or at a container's prompt."""
    near = " ".join(entry.plain for entry in evidence.around(hit.entry, 3, 1))
    return bool(
        re.search(
            r"OCI runtime|exec: \"nvidia-smi\"|docker exec|root@[0-9a-f]{12}|kubectl exec|podman exec", near
        )
    )


def _is_strong(hit: Hit) -> bool:
    return any(sign.pattern.search(hit.entry.plain) for sign in (REQUESTS, BANNER, NO_SMI))


def _why(signs: list[Hit], begun: list[Start]) -> str:
    text = " ".join(hit.entry.plain for hit in signs)
    parts = []
    if REQUESTS.pattern.search(text):
        parts.append("Docker notes no request for a GPU")
    if "nvidia-smi" in text:
        parts.append("nvidia-smi is not there inside, which the toolkit would have put there")
    if BANNER.pattern.search(text) or NO_DRIVER.pattern.search(text):
        parts.append("the image finds no driver")
    if not parts:
        parts.append("it is started without --gpus, a device or a reservation")
    if begun:
        parts.append("Ollama sees only the CPU from its first start on")
    why = "; ".join(parts) + "."
    return why[0].upper() + why[1:]


def _cpu(begun: list[Start]) -> tuple[Quote, ...]:
    return (begun[0].devices[0].entry.quote(),) if begun else ()


def _seen(evidence: Evidence) -> Iterator[Finding]:
    """A running container without a request, on a host with a card."""
    cards = evidence.value("gpu.count") or evidence.value("pci.nvidia")
    if not cards or evidence.value("docker.default_runtime") == "nvidia":
        return
    for row in inside.of_role(evidence, "ollama", "comfyui"):
        value = row.value
        if value.get("state") != "running" or value.get("gpu_request") or value.get("runtime") == "nvidia":
            continue
        if re.search(r"rocm|cpu|vulkan|xpu", str(value.get("image", ""))):
            continue
        cpu = [
            one
            for one in evidence.all_readings("ollama.resident")
            if one.value and not one.value.get("size_vram_bytes")
        ]
        why = f"Container {row.about} runs without a request for a GPU, and this machine has {cards}."
        if cpu and value.get("role") == "ollama":
            why += f" {cpu[0].about} runs on the CPU."
        quotes = (evidence.quote_reading(row), *(evidence.quote_reading(one) for one in cpu[:1]))
        yield _finding(evidence, quotes, why, 0.92, name=row.about)


def _finding(
    evidence: Evidence, quotes: tuple[Quote, ...], why: str, confidence: float, name: str = ""
) -> Finding:
    name = name or inside.name_of(evidence)
    known = name != "CONTAINER"
    smi = Command(
        text=f"docker exec {name} nvidia-smi -L",
        safe=True,
        argv=("docker", "exec", name, "nvidia-smi", "-L") if known else (),
    )
    return Finding(
        cause="container_started_without_gpu",
        title=(
            f"Container {name} was started without a GPU"
            if known
            else "The container was started without a GPU"
        ),
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=tuple(
                Command(text=step.text.replace("CONTAINER", name), safe=step.safe, note=step.note)
                for step in REMEDY.commands
            ),
            verify=REMEDY.verify,
            verify_commands=(smi,),
        ),
        ruled_out=(
            RuledOut(cause="container_gpu_lost_cgroup", why="No earlier start in this evidence had the GPU."),
            RuledOut(
                cause="uvm_module_broken", why="No error of the driver is told: it was not even looked for."
            ),
        ),
        about=name if known else "",
    )


RULE = Rule(
    slug="container_started_without_gpu",
    title="The container was started without a GPU",
    area="container",
    meaning="A container gets a GPU only if it is asked for when the container is made. Here it was not.",
    signature=(
        "inference compute … library=cpu from the first start on",
        'exec: "nvidia-smi": executable file not found in $PATH',
        '"DeviceRequests": null',
    ),
    certain="docker inspect shows no DeviceRequests, no runtime nvidia and no device.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="container_gpu_lost_cgroup", how="An earlier start of the same container had the GPU."
        ),
        LookAlike(
            cause="container_toolkit_or_driver_missing", how="It was asked for, and Docker refused to start."
        ),
        LookAlike(
            cause="uvm_module_broken", how="The library is there inside, and the driver answers with 999."
        ),
        LookAlike(cause="healthy", how="A host without a GPU: «library=cpu» is as it should be."),
    ),
    signs=(NO_SMI, BANNER, REQUESTS, NO_DRIVER, RUN, COMPOSE, ASKED, SEEN, *inside.SIGNS),
    check=check,
    readings=("container", "gpu.count"),
    explains=("gpu_not_visible", "driver_not_loaded", "partial_offload_slow"),
)
