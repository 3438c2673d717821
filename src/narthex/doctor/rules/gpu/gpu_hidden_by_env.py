"""A variable of visible devices hides the GPU from Ollama."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.rules.gpu.gpu_discovery_timeout import TIMED_OUT
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda
from narthex.doctor.story import Start, starts

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES",
)
_NAME = r"(?P<name>(?:CUDA|ROCR|HIP|GGML_VK|NVIDIA)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)"
OVERRODE = Sign(rf'user overrode visible devices"?(?: {_NAME}="?(?P<value>[^"\s]*))?')
CONFIGURED = Sign(
    r'\bserver config"? env=.*?\b(?P<name>(?:CUDA|ROCR|HIP|GGML_VK)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)'
    r":(?P<value>[^ \]\"]+)",
    words=["server config"],
)
SET = Sign(
    rf"\b{_NAME}=\"?(?P<value>[^\"\s;,]*)",
    words=["visible_devices", "device_ordinal"],
    kinds=("commands", "client_error"),
)
TWICE = Sign(r"\bROCR_VISIBLE_DEVICES[=:][^\s\]\"]", words=["rocr_visible_devices"], first=10, last=10)
_GIVEN = re.compile(r"\b(\w+_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)[=:]([^\s\]\",;]*(?:,\d+)*)")
_ALONE = re.compile(rf"{_NAME}=\"?(?P<value>[^\"\s]*)", re.IGNORECASE)
FILTERED = Sign(r"filtering out device per user request")
NOTHING = ("-1", "", "none", "void", "no", "''", '""')


def _remedy(name: str) -> Remedy:
    return Remedy(
        text=f"Take {name} away from the service, or set it to the UUID of the card that is meant.",
        commands=(
            Command(
                text="systemctl cat ollama; systemctl show ollama -p Environment",
                safe=True,
                note="where it is set",
            ),
            Command(
                text="nvidia-smi -L",
                safe=True,
                note="the UUIDs; numbers change their order",
                argv=("nvidia-smi", "-L"),
            ),
            Command(
                text=f'sudo systemctl edit ollama    # take out Environment="{name}=…", or [Service] '
                f"UnsetEnvironment={name}",
                safe=True,
                root=True,
                note="in Docker: the entry under environment: or -e",
            ),
            Command(
                text="sudo systemctl daemon-reload && sudo systemctl restart ollama", safe=False, root=True
            ),
        ),
        verify="The next start's line «inference compute» names the GPU.",
        verify_commands=(steps.COMPUTE_LINE,),
    )


def check(evidence: Evidence) -> Iterator[Finding]:
    """The variable is set, and the start that saw it computes on the CPU."""
    found = _filtered_twice(evidence) or _by_log(evidence) or _by_readings(evidence)
    if found is None or where.cpu_is_meant(evidence):
        return
    name, value, quotes = found
    hides = value.strip("'\"").lower() in NOTHING
    yield Finding(
        cause="gpu_hidden_by_env",
        title=f"{name} hides the GPU",
        severity=Severity.ERROR,
        confidence=_confidence(evidence, name, hides),
        evidence=tuple(dict.fromkeys(quotes))[:4],
        why=f"{name} is «{value}»"
        + (", which allows no card," if hides else ", which may name a card that is not there,")
        + " and Ollama computes on the CPU. If that is meant, nothing is wrong.",
        remedy=_remedy(name),
        ruled_out=(
            RuledOut(
                cause="uvm_module_broken", why="No library complains; it was told to leave the card alone."
            ),
            RuledOut(cause="gpu_not_visible", why="The variable tells the deeper reason."),
        ),
    )


def _confidence(evidence: Evidence, name: str, hides: bool) -> float:
    if evidence.has(cuda.UNKNOWN, cuda.MISMATCH, cuda.NO_DRIVER, cuda.TOO_OLD) or cuda.with_code(
        evidence, 999, 803, 3
    ):
        return 0.3
    other = name == "GGML_VK_VISIBLE_DEVICES" and any(True for _ in where.nvidia_traces(evidence))
    if other or (not hides and evidence.has(TIMED_OUT)):
        return 0.4
    return 0.9 if hides else 0.7


def _by_log(evidence: Evidence) -> tuple[str, str, list[Quote]] | None:
    """The last of the lines that tell of it, where the CPU follows."""
    hits = [_named(evidence, hit) for hit in evidence.hits(OVERRODE, CONFIGURED)] or _typed(evidence)
    worst = [hit for hit in hits if hit["name"] and where.gpu_after(evidence, hit.entry) is None]
    for hit in sorted(worst, key=lambda hit: hit["value"].lower() not in NOTHING):
        cpu = where.on_cpu(evidence, hit.entry)
        none = evidence.first(cuda.NO_DEVICE, FILTERED)
        if cpu is None and (none is None or hit["value"].lower() not in NOTHING):
            continue
        line = cpu.quote() if cpu is not None else none.quote() if none is not None else hit.quote()
        return hit["name"], hit["value"], [hit.quote(), line]
    return None


def _named(evidence: Evidence, hit: Hit) -> Hit:
    """The line with the variable: the next one where the line was broken before its name."""
    if hit["name"]:
        return hit
    for entry in evidence.around(hit.entry, 0, 2)[1:]:
        if found := _ALONE.match(entry.plain):
            return Hit(entry=entry, match=found)
    return hit


def _filtered_twice(evidence: Evidence) -> tuple[str, str, list[Quote]] | None:
    """ROCm first takes the cards of ROCR_VISIBLE_DEVICES, then counts anew for the second variable: a number
    that fits the machine then names no card."""
    none = where.standing(evidence, evidence.hits(cuda.NO_DEVICE))
    none = [hit for hit in none if "rocm" in hit.entry.plain.lower()]
    for hit in evidence.hits(TWICE) if none else ():
        given = dict(_GIVEN.findall(hit.entry.plain))
        left = len(given.get("ROCR_VISIBLE_DEVICES", "").split(","))
        for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"):
            first = given.get(name, "").split(",")[0]
            if given.get("ROCR_VISIBLE_DEVICES") and first.isdigit() and int(first) >= left:
                return name, given[name], [hit.quote(), none[-1].quote()]
    return None


def _typed(evidence: Evidence) -> list[Hit]:
    """Set in a terminal, a unit or a Compose file that is shown: only what hides everything counts."""
    if where.any_gpu(evidence):
        return []
    return [
        hit for hit in evidence.hits(SET) if hit["value"] and hit["value"].strip("'\"").lower() in NOTHING
    ]


def _by_readings(evidence: Evidence) -> tuple[str, str, list[Quote]] | None:
    row = evidence.reading("ollama.env")
    last: list[Start] = sorted(starts(evidence), key=lambda start: start.at or 0.0)[-1:]
    card = evidence.value("pci.nvidia") or evidence.value("pci.amd")
    if row is None or not isinstance(row.value, dict) or not card or not (last and last[0].only_cpu):
        return None
    for name in VARIABLES:
        value = row.value.get(name)
        if value not in (None, "", "all"):
            return name, str(value), [evidence.quote_reading(row), last[0].devices[-1].entry.quote()]
    return None


RULE = Rule(
    slug="gpu_hidden_by_env",
    title="A variable hides the GPU",
    area="gpu",
    meaning="CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or "
    "GGML_VK_VISIBLE_DEVICES tell the "
    "libraries which cards they may see. A value that fits no card leaves only the CPU.",
    signature=('msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=-1, then library=cpu',),
    certain="Take the variable away and restart: the line «inference compute» names the GPU.",
    remedy=_remedy("CUDA_VISIBLE_DEVICES"),
    look_alikes=(
        LookAlike(
            cause="healthy",
            how="The same warning, and a GPU is used after it; or the CPU is what was wanted.",
        ),
        LookAlike(
            cause="rocm_gpu_unsupported", how="Only HSA_OVERRIDE_GFX_VERSION is set: that hides nothing."
        ),
    ),
    check=check,
    signs=(OVERRODE, CONFIGURED, SET, TWICE, FILTERED, *where.SIGNS),
    readings=("ollama.env",),
    explains=("gpu_not_visible", "gpu_discovery_timeout", "container_started_without_gpu"),
    overrules=("gpu_not_visible",),
)
