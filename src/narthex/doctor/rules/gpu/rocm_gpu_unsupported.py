"""The AMD card is outside what this release's ROCm serves."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.rules.gpu.gpu_discovery_timeout import TIMED_OUT
from narthex.doctor.rules.gpu.igpu_not_used import DROPPED
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel

REFUSED = Sign(
    r"amdgpu is not supported(?: \(supported types:\s*(?P<types>\[[^\]]*\])\))?"
    r"|amdgpu \[\d+\] (?:gfx\w+ )?is not supported"
    r"|amdgpu too old|no rocblas support for gfx target|no compatible amdgpu devices detected"
    r"|no compatible rocm library found|no suitable rocm found|unable to verify rocm library",
    words=[
        "amdgpu is not supported",
        "is not supported",
        "amdgpu too old",
        "rocblas support",
        "amdgpu devices",
        "rocm library",
        "suitable rocm",
    ],
)
TENSILE = Sign(
    r"rocBLAS error: Cannot read \S*TensileLibrary|TensileLibrary\S*: ?(?:Illegal seek|No such file)"
    r"|Could not load \S*TensileLibrary|Could not initialize Tensile host(?!: No devices)"
)
CRASHED = Sign(
    r"failure during (?:llama-server )?GPU discovery\b.*runner crashed|error=\"?(?:llama )?runner crashed"
    r"|filtering device which didn't fully initialize",
    words=["runner crashed", "fully initialize"],
)
AMD = Sign(
    r"\bgfx(?P<gfx>\d{3,4}[a-f]?)\b|AMD Radeon (?!Graphics)"
    r"|(?<!w/ )(?<!with )Radeon (?:RX|Pro|VII|AI|Vega|\d{3,4}[MS])|AMD/ATI|rocm[-_]smi"
    r"|rocminfo|amd-smi"
    r"|rocm_v\d|library=\"?ROCm",
    words=["gfx", "radeon", "amd/ati", "rocm", "amd-smi"],
)
GFX = Sign(
    r"(?:gpu_type|gfx_target|GPU arch ?:|Name:|amdgpu too old|compute=)[ =\"]*gfx(?P<gfx>[0-9a-f]{3,4})",
    words=["gfx"],
)
VERSION = Sign(r"ollama version is (?P<version>\d[\w.-]*)")

REMEDY = Remedy(
    text="Take a newer Ollama, whose ROCm may know the card. Else use Vulkan, which serves nearly "
    "every card. A near "
    "relative of a card on the list can pass for it.",
    commands=(
        Command(text="rocminfo | grep -m1 -o 'gfx[0-9a-f]*'", safe=True, note="the card's name for ROCm"),
        Command(
            text="curl -fsSL https://ollama.com/install.sh | sh",
            safe=False,
            root=True,
            note="the newest release, with ROCm",
        ),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="OLLAMA_VULKAN=1"',
            safe=True,
            root=True,
            note="Vulkan (on by default since 0.30); in Docker the plain image with --device /dev/dri",
        ),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="HSA_OVERRIDE_GFX_VERSION=10.3.0"',
            safe=True,
            root=True,
            note="only for near relatives: 10.3.0 for gfx103x, 11.0.0 for gfx110x; a wrong one crashes",
        ),
        steps.RESTART_OLLAMA,
    ),
    verify="The line «inference compute» says library=ROCm or library=Vulkan, and the first answer comes.",
    verify_commands=(steps.COMPUTE_LINE,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Refused by name, crashed in ROCm's probe, or an AMD card that shows everywhere but in Ollama."""
    refused = where.standing(evidence, evidence.hits(REFUSED, TENSILE))
    refused += [hit for hit in evidence.hits(TENSILE) if hit not in refused and _died_after(evidence, hit)]
    crashed = where.standing(evidence, _crashed(evidence))
    plain = [] if refused or crashed else _plain_cpu(evidence)
    hits = [*refused, *crashed, *plain]
    if not hits or evidence.has(kernel.KFD_DENIED):
        return
    cards = [hit for hit in evidence.hits(AMD) if hit.entry not in [one.entry for one in hits]]
    quotes = [hit.quote() for hit in (*hits[:3], *cards[:1])]
    if (cpu := where.on_cpu(evidence, hits[0].entry)) is not None:
        quotes.append(cpu.quote())
    gfx = _gfx(evidence)
    yield Finding(
        cause="rocm_gpu_unsupported",
        title=f"This release's ROCm does not serve the AMD card{f' ({gfx})' if gfx else ''}",
        severity=Severity.ERROR,
        confidence=_confidence(refused, crashed, gfx, cpu is not None),
        evidence=tuple(dict.fromkeys(quotes))[:5],
        why=_why(evidence, refused, crashed, gfx),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(cause="rocm_host_fault", why="The card is refused before it is put to work."),
            RuledOut(
                cause="gpu_discovery_timeout", why="The probe was refused or crashed; it was not too slow."
            ),
        ),
        about=gfx,
    )


def _crashed(evidence: Evidence) -> list[Hit]:
    """Crashed probes of ROCm: not those of another library, nor on a machine with an NVIDIA card."""
    hits = evidence.hits(CRASHED)
    named = [hit for hit in hits if "rocm" in hit.entry.plain.lower() or "hip" in hit.entry.plain.lower()]
    if any(True for _ in where.nvidia_traces(evidence)) and not evidence.has(GFX):
        return []
    if named:
        return named
    return [
        hit
        for hit in hits
        if "cuda" not in hit.entry.plain.lower() and "vulkan" not in hit.entry.plain.lower()
    ]


def _died_after(evidence: Evidence, hit: Hit) -> bool:
    """rocBLAS without its files ends the process; a line of hipBLASLt alone is only slower."""
    return "rocblas error" in hit.entry.plain.lower()


def _plain_cpu(evidence: Evidence) -> list[Hit]:
    """An AMD card with a gfx name is shown, Ollama uses the CPU, and nothing else explains it."""
    if where.any_gpu(evidence) or any(True for _ in where.nvidia_traces(evidence)):
        return []
    if evidence.has(TIMED_OUT, DROPPED, cuda.NO_DEVICE) or where.on_cpu(evidence) is None:
        return []
    return [hit for hit in evidence.hits(AMD) if hit.entry.kind in ("commands", "client_error", "dmesg")][:2]


def _gfx(evidence: Evidence) -> str:
    named = evidence.first(GFX) or next(
        (hit for hit in evidence.hits(AMD) if hit["gfx"] and "TensileLibrary" not in hit.entry.plain), None
    )
    return f"gfx{named['gfx']}" if named is not None else ""


def _confidence(refused: list[Hit], crashed: list[Hit], gfx: str, on_cpu: bool) -> float:
    if refused:
        return 0.95 if gfx or on_cpu else 0.85
    if crashed:
        named = any("rocm" in hit.entry.plain.lower() for hit in crashed)
        return 0.85 if on_cpu and (gfx or named) else 0.7 if on_cpu or gfx or named else 0.55
    return 0.7 if gfx else 0.45


def _why(evidence: Evidence, refused: list[Hit], crashed: list[Hit], gfx: str) -> str:
    card = gfx or "the card"
    types = next(
        (hit.match.groupdict().get("types") for hit in refused if hit.match.groupdict().get("types")), None
    )
    if refused:
        return f"ROCm's libraries here hold nothing for {card}" + (f"; they serve {types}." if types else ".")
    if crashed:
        return f"The probe with ROCm's libraries crashed on {card}, and no other library found a GPU."
    version = evidence.first(VERSION)
    release = f"Ollama {version['version']}" if version is not None else "this Ollama"
    return f"ROCm's own tools list {card}, and {release} finds no GPU: its bundled ROCm does not serve it."


RULE = Rule(
    slug="rocm_gpu_unsupported",
    title="The AMD card is not served by this ROCm",
    area="gpu",
    meaning="Each release of Ollama brings a ROCm with files for certain AMD cards. Another card is "
    "refused or makes "
    "the probe crash, and the CPU is used.",
    signature=(
        "amdgpu is not supported (supported types:[gfx1030 gfx1100 …])",
        "dropping ROCm device — no rocblas support for gfx target",
        'failure during GPU discovery … rocm … error="runner crashed", then total vram="0 B"',
        "rocBLAS error: Cannot read …/TensileLibrary.dat: Illegal seek for GPU arch : gfx1103",
    ),
    certain="Compare the name from rocminfo (gfx…) with the supported types in the log, or with the files "
    "TensileLibrary_lazy_gfx*.dat of the installation.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="gpu_arch_not_in_build", how="The card is taken, and the first program on it can't start."
        ),
        LookAlike(cause="igpu_not_used", how="The card is integrated and is dropped on purpose."),
        LookAlike(cause="rocm_host_fault", how="It worked; then memory faults or ring time-outs came."),
        LookAlike(
            cause="healthy", how="The refused card is an integrated one beside a discrete card that is used."
        ),
    ),
    check=check,
    signs=(REFUSED, TENSILE, CRASHED, AMD, GFX, VERSION, *where.SIGNS),
    explains=(
        "container_started_without_gpu",
        "gpu_not_visible",
        "runner_crash_bug",
        "gpu_discovery_timeout",
    ),
    overrules=("gpu_not_visible",),
)
