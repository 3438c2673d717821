"""The model was loaded, and the card's memory ran out while it worked."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, remedies
from narthex.doctor.rules.memory.failures import Failure, Phase
from narthex.units import format_size

REMEDY = Remedy(
    text="Leave head-room on the card: less context first, then a few layers less, then smaller batches.",
    commands=(*remedies.smaller(), remedies.kv_quantised(), remedies.LOOK_AT_TENANTS),
    verify="A prompt that fills the context is answered, and some 500 MiB of the card stay free meanwhile.",
    verify_commands=(remedies.SHOW_CARD,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """An allocation that failed when the load was over."""
    failure = failures.pending(evidence, Phase.WORK)
    if failure is not None:
        yield _finding(failure, len([one for one in failures.failures(evidence) if one.phase is Phase.WORK]))


def _finding(failure: Failure, count: int) -> Finding:
    load = failure.load
    asked = f" It asked for {format_size(failure.asked_bytes)}." if failure.asked_bytes else ""
    ctx = f" The context is {load.num_ctx} tokens." if load and load.num_ctx else ""
    times = f" That happened {count} times." if count > 1 else ""
    where = f" in {failure.function}" if failure.function else ""
    on = f" on {failure.device}" if failure.device else ""
    after = "After the load had gone well, " if load and load.end == "ready" else ""
    why = f"{after}memory ran out{on}{where}, while the model worked.{asked}{ctx}{times}"
    return Finding(
        cause="vram_oom_in_generation",
        title="The GPU's memory ran out while the model was working",
        severity=Severity.INFO if failure.past else Severity.ERROR,
        confidence=0.9 if failure.sure else 0.6,
        evidence=failure.quotes,
        why=why[0].upper() + why[1:],
        remedy=Remedy(
            text=REMEDY.text,
            commands=(
                *remedies.smaller(
                    ctx=load.num_ctx if load else None, layers=load.layers_on if load else None
                ),
                remedies.kv_quantised(),
                remedies.LOOK_AT_TENANTS,
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=(
            RuledOut(
                cause="vram_oom_on_load", why="It is no buffer of weights or cache: those were there already."
            ),
        ),
        about=load.model if load else "",
    )


RULE = Rule(
    slug="vram_oom_in_generation",
    title="Out of GPU memory while working",
    area="memory",
    meaning=(
        "The model was loaded with too little room left. A long prompt, an image or a second request needed"
        " more."
    ),
    signature=(
        "CUDA error: out of memory … in function alloc",
        "cuMemSetAccess / cuMemCreate … out of memory",
        "Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ),
    certain=(
        "«started in … seconds» or an answered request stands before it, or the words «no longer running»."
    ),
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="vram_oom_on_load", how="There the load itself ends with the error."),
        LookAlike(cause="vram_contention_other_process", how="Another program took the room meanwhile."),
        LookAlike(
            cause="container_gpu_lost_cgroup", how="The card is nearly empty, and nvidia-smi inside fails."
        ),
    ),
    signs=oom_signs.ALL,
    check=check,
    explains=("runner_crash_bug", "owui_500_while_ollama_ok", "embedding_failure"),
)
