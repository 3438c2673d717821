"""The build holds no code for this generation of GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda

SKIPPED = Sign(
    r"compute capability not in compiled architectures\"?(?:.*?device=\"(?P<device>[^\"]*)\")?"
    r"(?:.*?\bcc=(?P<cc>\d+))?"
)
TOO_OLD_CARD = Sign(r"CUDA GPU is too old.*?Compute Capability detected: (?P<cc>[\d.]+)")
TORCH = Sign(
    r"(?:with )?CUDA capability (?P<cc>sm_\d+) is not compatible with the current PyTorch installation"
    r"|PyTorch no longer supports this GPU because it is too old|Torch not compiled with CUDA enabled"
)
# PyTorch's older and newer warning; the range stands in the next lines.
TORCH_RANGE = Sign(r"Found GPU\d+ (?P<device>.+?) which is of cuda capability (?P<cc>\d+\.\d+)")
_RANGE = re.compile(
    r"\((\d+)\.(\d+)\) - \((\d+)\.(\d+)\)|capability supported by this library is (\d+)\.(\d+)"
)

REMEDY = Remedy(
    text="Use a build that was made for this card: another release, another of the libraries that "
    "come with it, or "
    "a build of your own.",
    commands=(
        Command(
            text="nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv",
            safe=True,
            note="the generation; AMD: rocminfo | grep gfx",
            argv=("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv"),
        ),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="OLLAMA_LLM_LIBRARY=cuda_v12"',
            safe=True,
            root=True,
            note="takes another bundled library (cuda_v12 for older cards, cuda_v13 for newer, "
            "vulkan for any)",
        ),
        Command(
            text="curl -fsSL https://ollama.com/install.sh | sh",
            safe=False,
            root=True,
            note="the newest release",
        ),
        Command(
            text="cmake -B build -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native && cmake --build build -j",
            safe=True,
            note="a llama.cpp of your own for the card in this machine",
        ),
        Command(
            text="pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu128",
            safe=False,
            note="ComfyUI: a PyTorch that knows the card",
        ),
    ),
    verify="The first request is answered on the GPU; no line speaks of a kernel image or a device function.",
    verify_commands=(Command(text="ollama ps", safe=True, note="PROCESSOR says GPU"), steps.COMPUTE_LINE),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The first kernel can't be launched, or the probe says that it never could."""
    failed = list(
        {
            hit.entry.place: hit
            for hit in (*evidence.hits(cuda.NO_KERNEL), *cuda.with_code(evidence, 200, 209))
        }.values()
    )
    failed = [hit for hit in failed if not where.mended(evidence, hit.entry)]
    left_out = where.standing(evidence, evidence.hits(SKIPPED, TOO_OLD_CARD, TORCH))
    left_out += [
        hit for hit in where.standing(evidence, evidence.hits(TORCH_RANGE)) if _outside(evidence, hit)
    ]
    hits = [*failed, *left_out]
    if not hits:
        return
    driver = evidence.first(cuda.TOO_OLD, cuda.INSUFFICIENT)
    yield Finding(
        cause="gpu_arch_not_in_build",
        title=f"The build has no code for this GPU{_card(hits)}",
        severity=Severity.ERROR,
        confidence=0.6 if driver is not None else 0.9,
        evidence=tuple(hit.quote() for hit in hits[:4]),
        why=_why(failed, left_out),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="gpu_not_visible", why="The card is found; it is the program that has no code for it."
            ),
            RuledOut(cause="vram_oom_on_load", why="The error is not about memory."),
        ),
    )


def _outside(evidence: Evidence, hit: Hit) -> bool:
    """Whether the card's generation is below the first that PyTorch serves, or above the last: code for 12.0
    runs on 12.1."""
    near = " ".join(entry.plain for entry in evidence.around(hit.entry, 0, 4))
    found = _RANGE.search(near)
    if found is None:
        return "no longer supports this GPU" in near
    has = tuple(map(int, hit["cc"].split(".")))
    least = (int(found[1] or found[5]), int(found[2] or found[6]))
    return has < least or (found[3] is not None and has[0] > int(found[3]))


def _card(hits: list[Hit]) -> str:
    for hit in hits:
        groups = hit.match.groupdict()
        if groups.get("device"):
            return f" ({groups['device']})"
        if groups.get("cc"):
            return f" ({groups['cc']})"
    return ""


def _why(failed: list[Hit], left_out: list[Hit]) -> str:
    if not failed:
        return "The card is left out because its generation is not among those that the build was made for."
    word = re.search(
        r"no kernel image|kernel image is invalid|invalid device function|code object",
        failed[0].entry.plain,
        re.I,
    )
    said = f" («{word[0]}»)" if word else ""
    return f"The first program for the GPU could not be started{said}: {len(failed)} lines say so" + (
        ", and the probe left a card out." if left_out else "."
    )


RULE = Rule(
    slug="gpu_arch_not_in_build",
    title="No code for this GPU in the build",
    area="gpu",
    meaning="A build carries code for certain generations of GPU. On another one the first program "
    "for the GPU can't "
    "start; newer Ollama notices it before and leaves the card out.",
    signature=(
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: device kernel image is invalid",
        "ROCm error: invalid device function",
        "skipping CUDA device — compute capability not in compiled architectures",
        "sm_120 is not compatible with the current PyTorch installation",
    ),
    certain="Compare the card's compute capability with ARCHS in llama-server's line system_info.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="driver_too_old",
            how="«insufficient» or «driver too old» stands beside it: first the driver.",
        ),
        LookAlike(
            cause="rocm_gpu_unsupported", how="AMD, and the card is refused before anything is started."
        ),
        LookAlike(cause="runner_crash_bug", how="The runner dies with another error."),
    ),
    check=check,
    signs=(SKIPPED, TOO_OLD_CARD, TORCH, TORCH_RANGE, *where.SIGNS),
    explains=("runner_crash_bug", "gpu_not_visible", "client_timeout_aborts_load", "embedding_failure"),
    overrules=("gpu_not_visible",),
)
