"""A job of ComfyUI needs more than the card has, by itself."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import remedies, tenants, torch_oom
from narthex.doctor.rules.memory.torch_oom import TorchOom
from narthex.units import GIB, format_size

REMEDY = Remedy(
    text="Make the job smaller, or let ComfyUI keep more of it in main memory.",
    commands=(
        Command(text="Lower the size of the image, the number of frames, or the batch", safe=False),
        Command(text="Use a smaller checkpoint: fp8 or GGUF; and «VAE Decode (Tiled)»", safe=False),
        Command(text="Start ComfyUI with --lowvram or --novram", safe=False, note="slower; not --highvram"),
    ),
    verify="The same job ends with «Prompt executed in …».",
    verify_commands=(remedies.SHOW_CARD,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """PyTorch's report from ComfyUI, where no other process is to blame."""
    reports = [one for one in torch_oom.torch_ooms(evidence) if one.comfyui and not one.is_empty]
    told = [one for one in reports if one.blames_others is not None]
    report = (told or reports)[-1] if reports else None
    if report is None or report.blames_others:
        return
    shared = [one for one in tenants.tenants(evidence) if one.is_engine and one.vram_bytes > GIB]
    confidence = 0.9 if report.blames_others is False else 0.72
    if shared or any((one.vram_bytes or 0) > GIB for one in tenants.residents(evidence)):
        confidence -= 0.25
    yield _finding(evidence, report, confidence)


def _finding(evidence: Evidence, report: TorchOom, confidence: float) -> Finding:
    asked = f" It asked for {format_size(report.requested_bytes)} more." if report.requested_bytes else ""
    if report.own_bytes is not None and report.total_bytes is not None:
        why = (
            f"ComfyUI itself holds {format_size(report.own_bytes)} of"
            f" {format_size(report.total_bytes)}.{asked}"
        )
        ruled_out: tuple[RuledOut, ...] = (
            RuledOut(
                cause="vram_contention_other_process",
                why=(
                    f"Other processes hold {format_size(report.others_bytes)} at most."
                    if report.others_bytes is not None
                    else "No other process is named."
                ),
            ),
        )
    else:
        why = (
            "PyTorch could not get memory for the job, and nothing shows that another program holds the"
            f" card.{asked}"
        )
        ruled_out = ()
    return Finding(
        cause="comfyui_vram_oom",
        title="The ComfyUI job is too big for the GPU",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=report.quotes,
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=(remedies.free_comfyui(evidence), *REMEDY.commands),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=ruled_out,
    )


RULE = Rule(
    slug="comfyui_vram_oom",
    title="A ComfyUI job is too big",
    area="memory",
    meaning="The job's models and pictures need more than the card has, also when nobody else uses it.",
    signature=(
        "torch.OutOfMemoryError: Allocation on device",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.99 GiB",
        "Got an OOM, unloading all loaded models.",
    ),
    certain="PyTorch's own allocation is near the device's limit.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="vram_contention_other_process", how="Its own share is small, and yet nothing is free."
        ),
        LookAlike(cause="vram_contention_comfyui_ollama", how="An Ollama model sits on the card meanwhile."),
        LookAlike(
            cause="container_gpu_lost_cgroup",
            how="It fails at once on an empty card, and nvidia-smi inside fails.",
        ),
        LookAlike(
            cause="healthy",
            how="«Ran out of memory when regular VAE decoding, retrying with tiled» mends itself.",
        ),
    ),
    signs=(*torch_oom.SIGNS, *tenants.SIGNS),
    check=check,
    explains=("comfyui_job_failed",),
)
