"""The model does not fit on the card while it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, placement, remedies
from narthex.doctor.rules.memory.failures import Failure, Phase
from narthex.units import format_size

REMEDY = Remedy(
    text=(
        "Make it smaller, or make room: less context first, then fewer layers on the GPU, then smaller"
        " batches."
    ),
    commands=(remedies.LOOK_AT_CARD, remedies.LOOK_AT_TENANTS, *remedies.smaller(), remedies.kv_quantised()),
    verify="The load ends with «started in … seconds», and some 500 MiB of the card stay free.",
    verify_commands=(remedies.SHOW_CARD,),
)
_WHAT = {
    Phase.WEIGHTS: "the weights",
    Phase.KV: "the cache for the context",
    Phase.LOAD: "a buffer of the model",
}


def check(evidence: Evidence) -> Iterator[Finding]:
    """A buffer for weights or cache that the card could not give."""
    failure = failures.pending(evidence, Phase.WEIGHTS, Phase.KV, Phase.LOAD)
    if failure is not None:
        yield _finding(evidence, failure)
        return
    mended = [one for one in failures.failures(evidence) if one.recovered and one.phase is not Phase.WORK]
    if mended:
        yield _mended(mended[-1])


def _finding(evidence: Evidence, failure: Failure) -> Finding:
    load = failure.load
    on = f" on {failure.device}" if failure.device else ""
    asked = f"{format_size(failure.asked_bytes)} for " if failure.asked_bytes else ""
    why = f"While the model was loaded, {asked}{_WHAT[failure.phase]} could not be had{on}."
    if load is not None:
        one = placement.place(evidence, load)
        if one.available_bytes:
            why += f" {format_size(one.available_bytes)} were free before."
        if load.layers_of:
            why += f" {load.layers_on} of {load.layers_of} layers were to go on the GPU."
    confidence = 0.92 if failure.sure else 0.6
    if failure.over:
        why += " A later load in this log went well."
        confidence = min(confidence, 0.6)
    return Finding(
        cause="vram_oom_on_load",
        title="The model does not fit on the GPU",
        severity=failures.severity(failure),
        confidence=confidence,
        evidence=failure.quotes,
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=(
                remedies.LOOK_AT_CARD,
                remedies.LOOK_AT_TENANTS,
                *remedies.smaller(
                    ctx=load.num_ctx if load else None, layers=load.layers_on if load else None
                ),
                remedies.kv_quantised(),
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=_ruled_out(failure),
        about=load.model if load else "",
    )


def _ruled_out(failure: Failure) -> tuple[RuledOut, ...]:
    rows = []
    if failure.sure:
        rows.append(
            RuledOut(cause="vram_oom_in_generation", why="It was not working yet: the load itself failed.")
        )
    if failure.phase in (Phase.WEIGHTS, Phase.KV):
        rows.append(RuledOut(cause="compute_buffer_oom", why=f"What failed was {_WHAT[failure.phase]}."))
    return tuple(rows)


def _mended(failure: Failure) -> Finding:
    return Finding(
        cause="vram_oom_on_load",
        title="A first layout did not fit on the GPU; the next one did",
        severity=Severity.INFO,
        confidence=0.6,
        evidence=failure.quotes,
        why=(
            "The program tried again by itself in another way: with fewer layers, less context, without "
            "pipeline parallelism, or after it had made room. Nothing has to be done."
        ),
        remedy=Remedy(
            text="Nothing. Where it is slower than before, see how many layers are on the GPU.",
            commands=(remedies.SHOW_RESIDENTS,),
            verify="«ollama ps» says «100% GPU».",
            verify_commands=(remedies.SHOW_RESIDENTS,),
        ),
        about=failure.load.model if failure.load else "",
    )


RULE = Rule(
    slug="vram_oom_on_load",
    title="Out of GPU memory while loading",
    area="memory",
    meaning="Weights or cache need more of the card than it has free at that time.",
    signature=(
        "cudaMalloc failed: out of memory … unable to allocate CUDA0 buffer",
        "failed to allocate buffer for kv cache",
        "CUBLAS_STATUS_NOT_INITIALIZED right after the buffers",
    ),
    certain="The line names a buffer of weights or cache, and the load ends with an error.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="compute_buffer_oom", how="Weights and cache fit; one working buffer is far too large."
        ),
        LookAlike(cause="vram_oom_in_generation", how="The load ended well; a request made it grow."),
        LookAlike(cause="vram_contention_other_process", how="On an empty card it would fit."),
        LookAlike(
            cause="container_gpu_lost_cgroup", how="The card is nearly empty, and nvidia-smi inside fails."
        ),
        LookAlike(cause="host_ram_insufficient", how="The buffer that failed is named CPU."),
    ),
    signs=(*oom_signs.ALL, *placement.SIGNS),
    check=check,
    explains=("runner_crash_bug", "owui_500_while_ollama_ok", "embedding_failure"),
)
