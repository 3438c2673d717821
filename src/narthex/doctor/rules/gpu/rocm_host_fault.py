"""ROCm below Ollama fails: the kernel's driver, the firmware, or the permission to use them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import kernel, llama

FAULT = Sign(
    r"Memory access fault by GPU node|HW Exception by GPU node|HSA_STATUS_ERROR(?:_(?P<code>\w+))?"
    r"|hipErrorIllegalAddress|ROCm error: (?:an illegal memory access|unspecified launch failure"
    r"|unknown error|out of memory)"
)
REFUSED_MIB = Sign(
    r"allocating (?P<mib>[\d.]+) MiB on device \d+: (?:cuda|hip)Malloc failed: out of memory"
    r"|HIP out of memory\. Tried to allocate (?P<gib>[\d.]+) (?P<unit>[GM])iB\."
    r".*?of which (?P<free>[\d.]+) (?P<free_unit>[GM])iB is free"
)
FREE = Sign(
    r"using device ROCm\d+ .* - (?P<mib>\d+) MiB free|library=\"?ROCm\"? .*\b(?:free"
    r"|available)=\"(?P<free>[\d.]+) GiB",
    words=["using device rocm", "library=rocm", 'library="rocm'],
)
_PROCESS = re.compile(r"Process (?:information: process )?([^\s:]+) pid \d")
_COMPUTES = re.compile(r"ollama|llama|python|comfy|vllm|pt_main|rocm|hip|runner", re.IGNORECASE)
_SMALL = 0.6  # of the free memory: what is refused below that is not refused for lack of memory

REMEDY = Remedy(
    text="Look below Ollama: run a plain HIP program. If it fails too, change kernel, firmware or "
    "ROCm, not models.",
    commands=(
        Command(text="journalctl -k -b --no-pager | grep -iE 'amdgpu|kfd'", safe=True),
        Command(text="rocminfo | head -n 40; uname -r; cat /sys/module/amdgpu/version", safe=True),
        Command(
            text="python3 -c \"import torch; x = torch.ones(1 << 28, device='cuda'); print((x + x).sum())\"",
            safe=True,
            note="a plain program with a ROCm build of PyTorch",
        ),
        Command(
            text="An older or newer kernel and linux-firmware; the ROCm version that supports both",
            safe=False,
            root=True,
            note="a fault that began with an update goes with going back",
        ),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="OLLAMA_LLM_LIBRARY=vulkan"',
            safe=True,
            root=True,
            note="until then: Vulkan does not go through ROCm",
        ),
    ),
    verify="The plain HIP program passes, and the same request brings no new line of amdgpu in "
    "the kernel log.",
    verify_commands=(
        Command(text="journalctl -k --since -10min --no-pager | grep -i amdgpu", safe=True),
        steps.COMPUTE_LINE,
    ),
)
PERMISSION = Remedy(
    text="Let the service's user use the card: it must be in the groups that own /dev/kfd and "
    "/dev/dri/render*.",
    commands=(
        Command(text="ls -l /dev/kfd /dev/dri; id ollama", safe=True),
        Command(text="sudo usermod -aG render,video ollama", safe=True, root=True),
        Command(
            text="docker run --device /dev/kfd --device /dev/dri --group-add render …",
            safe=False,
            note="in a container: pass the devices; the group by its number on the host",
        ),
        steps.RESTART_OLLAMA,
    ),
    verify="The line «inference compute» says library=ROCm.",
    verify_commands=(steps.COMPUTE_LINE,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A fault in so many words, the kernel's own, memory refused though free, or no permission."""
    denied = where.standing(evidence, evidence.hits(kernel.KFD_DENIED))
    if denied:
        yield _finding(
            denied,
            0.9,
            "Ollama may not use the AMD card: /dev/kfd is forbidden",
            _denied(denied),
            PERMISSION,
        )
        return
    faults = [hit for hit in evidence.hits(FAULT) if not _is_plain_oom(hit)]
    shown = [hit for hit in evidence.hits(kernel.AMD_FAULT) if _is_amd(hit)]
    refused = _refused_though_free(evidence)
    hits = [*faults, *shown, *refused]
    if not hits:
        return
    others = _desktop(evidence, shown) if not (faults or refused) else ""
    over = all(where.mended(evidence, hit.entry) for hit in hits)
    if over or others:
        sure = 0.4
    elif faults and shown:
        sure = 0.95
    elif faults:
        sure = 0.85
    else:
        sure = 0.8 if shown else 0.7
    why = _why(faults, shown, refused)
    if others:
        why += f" All of them by {others}, which does not compute models."
    if over:
        why += " Ollama was started anew since, and worked on the GPU."
    severity = Severity.INFO if over else Severity.WARNING if others else Severity.ERROR
    found = _finding(hits, sure, "ROCm fails below Ollama", why, REMEDY)
    yield msgspec.structs.replace(found, severity=severity)


def _denied(hits: list[Hit]) -> str:
    if any("not loaded" in hit.entry.plain.lower() for hit in hits):
        return "The card is found, and /dev/kfd is not there: the container was started without it."
    return "The card is found, and opening its node is refused: the service's user lacks the group."


def _finding(hits: list[Hit], sure: float, title: str, why: str, remedy: Remedy) -> Finding:
    return Finding(
        cause="rocm_host_fault",
        title=title,
        severity=Severity.ERROR,
        confidence=sure,
        evidence=tuple(dict.fromkeys(hit.quote() for hit in (*hits[:2], *hits[-2:]))),
        why=why,
        remedy=remedy,
        ruled_out=(
            RuledOut(cause="rocm_gpu_unsupported", why="The card is not refused by name."),
            RuledOut(
                cause="runner_crash_bug", why="The fault is the GPU's or its driver's, not an assertion."
            ),
        ),
    )


def _desktop(evidence: Evidence, shown: list[Hit]) -> str:
    """The programs that the kernel names, where none of them is one that computes models; else ""."""
    near = [entry for hit in shown for entry in evidence.around(hit.entry, 0, 3)]
    names = dict.fromkeys(found[1] for entry in near if (found := _PROCESS.search(entry.plain)))
    return "" if any(_COMPUTES.search(name) for name in names) else ", ".join([*names][:3])


def _is_amd(hit: Hit) -> bool:
    plain = hit.entry.plain.lower()
    return any(word in plain for word in ("amdgpu", "gcvm", "gfxhub", "by gpu node", "mes failed", "ring "))


def _is_plain_oom(hit: Hit) -> bool:
    return "error: out of memory" in hit.entry.plain.lower()


def _refused_though_free(evidence: Evidence) -> list[Hit]:
    """An allocation far below what is free, on a ROCm card."""
    found = []
    for hit in evidence.hits(REFUSED_MIB):
        if hit["gib"]:
            asked, free = _mib(hit["gib"], hit["unit"]), _mib(hit["free"], hit["free_unit"])
        else:
            before = [one for one in evidence.hits(FREE) if where.comes_after(hit.entry, one.entry)]
            if not before:
                continue
            last = before[-1]
            asked = float(hit["mib"])
            free = float(last["mib"]) if last["mib"] else _mib(last["free"], "G")
            free -= sum(_taken(evidence, last.entry, hit.entry))
        if asked < _SMALL * free:
            found.append(hit)
    return found


def _taken(evidence: Evidence, since: Entry, until: Entry) -> Iterator[float]:
    """What was allocated on the card between two lines, in MiB."""
    for hit in evidence.hits(llama.BUFFER):
        between = where.comes_after(hit.entry, since) and where.comes_after(until, hit.entry)
        if between and hit["buffer"].lower().startswith("rocm"):
            yield float(hit["mib"])


def _mib(number: str, unit: str) -> float:
    return float(number) * (1024 if unit.upper() == "G" else 1)


def _why(faults: list[Hit], shown: list[Hit], refused: list[Hit]) -> str:
    parts = []
    if faults:
        parts.append(f"{len(faults)} lines tell of a fault of the GPU or of its queue")
    if shown:
        parts.append(f"the kernel's amdgpu complains in {len(shown)} lines")
    if refused:
        parts.append("memory was refused though far more was free")
    return ("; ".join(parts) + ".").capitalize()


RULE = Rule(
    slug="rocm_host_fault",
    title="ROCm fails below Ollama",
    area="gpu",
    meaning="The card is served, and then the layer below fails: a memory fault on the GPU, a queue "
    "that hangs, a "
    "reset by the kernel, memory that is refused though it is free, or a node that may not be opened.",
    signature=(
        "Memory access fault by GPU node-1 … Page not present or supervisor privilege",
        "amdgpu: GCVM_L2_PROTECTION_FAULT_STATUS, [gfxhub] page fault",
        "amdgpu: ring comp_1.0.1 timeout; GPU reset begin!",
        "HSA_STATUS_ERROR_…",
        "amdgpu devices detected but permission problems block access",
    ),
    certain="A plain HIP program fails in the same way.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="rocm_gpu_unsupported",
            how="The card never worked with this release, or a wrong "
            "HSA_OVERRIDE_GFX_VERSION makes it pass for another: take that away first.",
        ),
        LookAlike(cause="vram_oom_on_load", how="The memory really is full."),
        LookAlike(cause="runner_crash_bug", how="Other programs work; one model or input crashes."),
    ),
    check=check,
    signs=(FAULT, REFUSED_MIB, FREE, *where.SIGNS),
    explains=(
        "container_started_without_gpu",
        "runner_crash_bug",
        "gpu_not_visible",
        "gpu_discovery_timeout",
        "vram_oom_on_load",
        "comfyui_vram_oom",
        "compute_buffer_oom",
    ),
    overrules=("gpu_not_visible",),
)
