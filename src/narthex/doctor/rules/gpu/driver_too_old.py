"""The GPU's driver can't serve the CUDA (or ROCm) that the image or build wants."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda
from narthex.doctor.story import starts
from narthex.engines.ollama.eras import era_of

REQUIRED = Sign(
    r"driver=\"?(?P<have>[\d.]+)\"? required_driver=\"?(?P<needs>[^\"]+)", words=["required_driver"]
)

_LEAST = {"F": 550, "E": 531}  # by era: its own warning, and its documentation
_LEAST_BEFORE = 452  # CUDA 11

REMEDY = Remedy(
    text="Install a newer driver on the host; or take an image or a release that was built for the "
    "CUDA that this "
    "driver serves.",
    commands=(
        Command(
            text="nvidia-smi | head -n 4",
            safe=True,
            note="«CUDA Version» is the newest CUDA that this driver serves",
        ),
        Command(
            text="sudo ubuntu-drivers install",
            safe=False,
            root=True,
            note="Ubuntu; elsewhere the distribution's package nvidia-driver; then reboot",
        ),
        Command(
            text="docker run --gpus all --rm nvidia/cuda:12.2.2-base-ubuntu22.04 nvidia-smi",
            safe=True,
            note="an image for an older CUDA: put in the version that nvidia-smi names, or an older one",
        ),
        Command(
            text="OLLAMA_LLM_LIBRARY=cuda_v12",
            safe=False,
            note="Ollama carries libraries for several CUDA versions; an older one may do; restart it",
        ),
    ),
    verify="The container or program starts, and nvidia-smi's «CUDA Version» is at least the one "
    "that is wanted.",
    verify_commands=(steps.SMI, steps.COMPUTE_LINE),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Toolkit, runtime, PyTorch or Ollama say it in so many words."""
    plain = where.standing(evidence, evidence.hits(cuda.TOO_OLD))
    coded = [hit for hit in cuda.with_code(evidence, 35, 222) if _is_no_mere_probe(evidence, hit)]
    likely = where.standing(evidence, [*evidence.hits(cuda.INSUFFICIENT), *coded])
    weak = where.standing(evidence, [*evidence.hits(cuda.FORWARD_COMPAT), *cuda.with_code(evidence, 804)])
    weak += where.standing(evidence, _or_missing(evidence))
    old = _below_minimum(evidence) if not (plain or likely or weak) else []
    hits = list({hit.entry.place: hit for hit in (*plain, *likely, *weak, *old)}.values())
    if not hits:
        return
    here = evidence.hits(cuda.SMI_WORKS)
    sure = (
        0.95
        if plain
        else 0.85
        if likely and not _driver_absent(evidence)
        else 0.6
        if old or (weak and (here or evidence.has(cuda.OLD_LIBRARY)))
        else 0.4
    )
    yield Finding(
        cause="driver_too_old",
        title="The GPU driver is too old for the CUDA that is asked for",
        severity=Severity.ERROR,
        confidence=sure,
        evidence=tuple(hit.quote() for hit in (*hits[:3], *here[:1])),
        why=_why(evidence, hits, here),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="driver_library_mismatch", why="No line says that module and library differ in version."
            ),
            RuledOut(
                cause="container_toolkit_or_driver_missing",
                why="The toolkit works and knows the driver's version: it compares it.",
            ),
        ),
    )


def _is_no_mere_probe(evidence: Evidence, hit: Hit) -> bool:
    """Older Ollama tried CUDA's runtime on every machine; without an NVIDIA card it says 35 as well."""
    probe = "cudasetdevice" in hit.entry.plain.lower() or "cudart" in hit.entry.plain.lower()
    return not probe or any(True for _ in where.nvidia_traces(evidence))


def _or_missing(evidence: Evidence) -> list[Hit]:
    """«too old or missing»: also printed where there is no NVIDIA card at all, so a card must be seen. A
    library that is too old counts only where it is the only one: left-overs of old drivers say the same."""
    if evidence.has(cuda.NO_DEVICE, cuda.UNKNOWN) or cuda.with_code(evidence, 3, 999, 803):
        return []
    seen = any(True for _ in where.nvidia_traces(evidence))
    return [*evidence.hits(cuda.OLD_LIBRARY), *(evidence.hits(cuda.TOO_OLD_OR_MISSING) if seen else ())]


def _below_minimum(evidence: Evidence) -> list[Hit]:
    """nvidia-smi names a driver below what this Ollama asks for, and its last start found no GPU."""
    last = sorted(starts(evidence), key=lambda start: start.at or 0.0)[-1:]
    if not last or not last[0].only_cpu or evidence.has_kind("docker_log"):
        return []
    if not last[0].version:
        return []
    least = _LEAST.get(era_of(last[0].version).letter, _LEAST_BEFORE)
    shown = [hit for hit in evidence.hits(cuda.SMI_WORKS) if hit["driver"]]
    return [hit for hit in shown if int(hit["driver"].partition(".")[0]) < least][:1]


def _driver_absent(evidence: Evidence) -> bool:
    """CUDA's runtime says «insufficient» also where no driver answers at all."""
    return evidence.has(cuda.NO_DRIVER, cuda.TORCH_NO_DRIVER) or evidence.value("module.nvidia") is False


def _why(evidence: Evidence, hits: list[Hit], here: list[Hit]) -> str:
    text = "The driver serves only an older CUDA than the program was built for"
    required = evidence.first(REQUIRED)
    needs = next(
        (hit.match.groupdict().get("needs") for hit in hits if hit.match.groupdict().get("needs")), None
    )
    if required is not None:
        text = f"Driver {required['have']} is installed, {required['needs']} is needed"
    elif needs:
        text = f"The image demands {needs}, and the driver does not serve that"
    for hit in here[:1]:
        if hit["driver"]:
            text += f"; nvidia-smi names driver {hit['driver']}"
            text += f" with CUDA {hit['cuda']}" if hit["cuda"] else ""
    return text + "."


RULE = Rule(
    slug="driver_too_old",
    title="The GPU driver is too old",
    area="gpu",
    meaning="A driver serves CUDA up to a certain version. An image or a build for a newer one is "
    "refused, by the "
    "container toolkit before it starts or by CUDA when it starts.",
    signature=(
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=…",
        "CUDA driver version is insufficient for CUDA runtime version",
        "The NVIDIA driver on your system is too old (found version …)",
        'msg="NVIDIA driver too old" required_driver="550 or newer"',
        "the provided PTX was compiled with an unsupported toolchain",
    ),
    certain="Compare «CUDA Version» in nvidia-smi's first lines with the version of the image or build.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="driver_library_mismatch", how="nvidia-smi itself fails; a reboot cures it."),
        LookAlike(
            cause="gpu_arch_not_in_build",
            how="The driver is new enough; the build has no code for this card.",
        ),
        LookAlike(
            cause="container_toolkit_or_driver_missing", how="No version is compared; a library is not found."
        ),
    ),
    check=check,
    signs=(REQUIRED, *where.SIGNS),
    explains=(
        "container_started_without_gpu",
        "gpu_not_visible",
        "gpu_arch_not_in_build",
        "container_toolkit_or_driver_missing",
        "runner_crash_bug",
        "gpu_discovery_timeout",
    ),
    overrules=("gpu_not_visible", "container_toolkit_or_driver_missing"),
)
