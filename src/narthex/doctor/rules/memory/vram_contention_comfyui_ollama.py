"""ComfyUI and Ollama want the same card, and each keeps what it has."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Quote, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, placement, remedies, tenants, torch_oom
from narthex.doctor.rules.memory.failures import Phase
from narthex.doctor.rules.memory.placement import Reason
from narthex.doctor.rules.memory.torch_oom import TorchOom
from narthex.doctor.story import loads
from narthex.units import GIB, format_size

REMEDY = Remedy(
    text="Let one give its memory back before the other works.",
    commands=(
        Command(
            text=(
                "curl -X POST http://127.0.0.1:8188/free -H 'Content-Type: application/json' "
                '-d \'{"unload_models":true,"free_memory":true}\''
            ),
            safe=True,
        ),
        Command(
            text="ollama stop MODEL", safe=False, note="or «keep_alive»: 0 in the request before the image"
        ),
        Command(
            text="Start ComfyUI with --reserve-vram GB, or --disable-smart-memory",
            safe=False,
            note="it then leaves room, or unloads after each job",
        ),
    ),
    verify="During an image job «ollama ps» is empty, and before a chat ComfyUI holds little.",
    verify_commands=(remedies.SHOW_TENANTS, remedies.SHOW_RESIDENTS),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """ComfyUI failed while Ollama held the card; or Ollama did while ComfyUI held it."""
    reports = [one for one in torch_oom.torch_ooms(evidence) if one.comfyui and not one.is_empty]
    if reports:
        yield from _comfyui_failed(evidence, reports[-1])
        return
    yield from _ollama_failed(evidence)


def _comfyui_failed(evidence: Evidence, report: TorchOom) -> Iterator[Finding]:
    engine = [one for one in tenants.tenants(evidence) if one.is_engine and one.vram_bytes > GIB]
    held = [one for one in tenants.residents(evidence) if (one.vram_bytes or 0) > GIB]
    tail = _figures(report)
    if engine:
        why = (
            f"{engine[0].label} holds {format_size(engine[0].vram_bytes)} of the card while ComfyUI runs out"
            f" of it.{tail}"
        )
        yield _finding(evidence, (*report.quotes, engine[0].quote), why, 0.88)
    elif held:
        why = (
            f"Ollama holds {held[0].model} with {format_size(held[0].vram_bytes)} while ComfyUI runs"
            f" out.{tail}"
        )
        yield _finding(evidence, (*report.quotes, held[0].quote), why, 0.85)
    elif report.blames_others is not False and (load := _resident_before(evidence)):
        why = f"Ollama had loaded a model before ComfyUI ran out of memory.{tail}"
        yield _finding(evidence, (*report.quotes, load), why, 0.7 if report.blames_others else 0.45)


def _figures(report: TorchOom) -> str:
    if report.others_bytes is None:
        return ""
    return (
        f" ComfyUI itself holds {format_size(report.own_bytes)} of {format_size(report.total_bytes)}, "
        f"{format_size(report.free_bytes)} are free."
    )


def _ollama_failed(evidence: Evidence) -> Iterator[Finding]:
    failure = failures.pending(evidence, Phase.WEIGHTS, Phase.KV, Phase.LOAD, Phase.WORK, Phase.CONTEXT)
    partial = [
        one for one in placement.placements(evidence) if one.reason in (Reason.NEIGHBOURS, Reason.UNKNOWN)
    ]
    small = [one for one in tenants.residents(evidence) if one.share is not None and one.share < 0.99]
    if failure is not None:
        trouble, what = failure.quotes, "Ollama's model does not get its memory"
    elif partial:
        trouble, what = partial[-1].quotes, "Ollama places only a part of its model on the GPU"
    elif small:
        trouble, what = (small[0].quote,), f"{small[0].model} is only partly on the GPU"
    else:
        return
    holder = _comfyui(evidence)
    if holder is not None:
        quote, who = holder
        yield _finding(evidence, (*trouble, quote), f"{what}: {who} of the card.", 0.85)
    elif (failure is not None or partial) and (quoted := _busy_comfyui(evidence)) and _missing(evidence):
        yield _finding(evidence, (*trouble, quoted), f"{what}, and ComfyUI has its models loaded.", 0.6)


def _comfyui(evidence: Evidence) -> tuple[Quote, str] | None:
    """ComfyUI's share, where something tells it."""
    known = evidence.has_kind("comfyui_log") or any(
        row.value for row in evidence.all_readings("comfyui.answers")
    )
    for one in tenants.tenants(evidence):
        if one.vram_bytes > GIB and (one.is_comfyui or (known and one.is_python)):
            name = one.label if one.is_comfyui else f"ComfyUI, {one.label},"
            return one.quote, f"{name} holds {format_size(one.vram_bytes)}"
    row = evidence.reading("comfyui.stats")
    held = (row.value or {}).get("torch_vram_bytes") if row is not None else None
    if row is not None and held and held > GIB:
        return evidence.quote_reading(row), f"ComfyUI holds {format_size(held)}"
    return None


def _busy_comfyui(evidence: Evidence) -> Quote | None:
    hits = [
        hit
        for hit in evidence.hits(torch_oom.COMFYUI)
        if hit.entry.kind == "comfyui_log" and "oad" in hit.entry.plain
    ]
    return hits[-1].quote() if hits else None


def _missing(evidence: Evidence) -> bool:
    rows = [placement.place(evidence, load) for load in loads(evidence)[-3:]]
    return any((one.missing_bytes or 0) > 2 * GIB for one in rows)


def _resident_before(evidence: Evidence) -> Quote | None:
    done = [load for load in loads(evidence) if load.end == "ready" and load.signs_of_gpu]
    return done[-1].last.quote() if done else None


def _finding(evidence: Evidence, quotes: tuple[Quote, ...], why: str, confidence: float) -> Finding:
    live = [one for one in tenants.residents(evidence) if one.live and (one.vram_bytes or 0) > 0]
    steps = [remedies.unload(evidence, one) for one in live] or [REMEDY.commands[1]]
    return Finding(
        cause="vram_contention_comfyui_ollama",
        title="ComfyUI and Ollama want the same GPU at the same time",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=(remedies.free_comfyui(evidence), *steps, *REMEDY.commands[2:]),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
    )


RULE = Rule(
    slug="vram_contention_comfyui_ollama",
    title="ComfyUI and Ollama want the same card",
    area="memory",
    meaning=(
        "ComfyUI keeps its models on the card for ever, Ollama for minutes. Whoever comes second gets the"
        " rest."
    ),
    signature=(
        "torch.OutOfMemoryError in ComfyUI's log while «ollama ps» names a model on the GPU",
        "an Ollama model half on the CPU while ComfyUI holds the card",
    ),
    certain="nvidia-smi names both processes, and together they need more than the card has.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="comfyui_vram_oom", how="ComfyUI alone is near the card's size when it fails."),
        LookAlike(
            cause="vram_contention_other_process", how="The one that holds the card is neither of the two."
        ),
    ),
    signs=(*oom_signs.ALL, *placement.SIGNS, *tenants.SIGNS, *torch_oom.SIGNS),
    check=check,
    readings=("gpu.process", "ollama.resident", "comfyui.stats"),
    explains=(
        "vram_oom_on_load",
        "vram_oom_in_generation",
        "partial_offload_slow",
        "comfyui_vram_oom",
        "keep_alive_holds_vram",
        "comfyui_job_failed",
    ),
    overrules=("vram_contention_other_process",),
)
