"""One working buffer is larger than any card, or than the driver grants in one piece."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, remedies
from narthex.doctor.rules.memory.failures import ABSURD, Failure, Phase
from narthex.units import GIB, format_size

_COPIES = Command(
    text="Build with -DGGML_SCHED_MAX_COPIES=1, or split otherwise (--split-mode none)",
    safe=False,
    note="pipeline parallelism keeps four copies of the working buffer",
)
_SLOTS = Command(text="Start with --parallel 1", safe=False)
_BATCH = Command(text="Use smaller batches: num_batch 256 (llama-server: -b 512 -ub 256)", safe=False)
_FLASH = Command(
    text="Switch flash attention on (-fa on, OLLAMA_FLASH_ATTENTION=1)",
    safe=False,
    note="without it the buffer grows with the context times the batch",
)
_VULKAN = Command(
    text="Use smaller batches, or another back end; GGML_VK_FORCE_MAX_ALLOCATION_SIZE sets Vulkan's limit",
    safe=False,
)

REMEDY = Remedy(
    text="Make the working buffer smaller: less context, one slot, smaller batches, one copy of it.",
    commands=(
        remedies.plan(),
        Command(text="Ask for less context: num_ctx", safe=False),
        _SLOTS,
        _BATCH,
        _FLASH,
        _COPIES,
    ),
    verify="The line «compute buffer size» shows a sane size: some hundred MiB to a few GiB.",
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A working buffer that failed and that no second try mended."""
    failure = failures.pending(evidence, Phase.COMPUTE)
    if failure is not None:
        yield _finding(failure)


def _finding(failure: Failure) -> Finding:
    asked, on = failure.asked_bytes, f" on {failure.device}" if failure.device else ""
    size = f" of {format_size(asked)}" if asked else ""
    steps: list[Command] = [remedies.plan(), Command(text="Ask for less context: num_ctx", safe=False)]
    if failure.single:
        why = (
            f"A single buffer{size} is larger than the driver grants in one piece{on}, however much is free."
        )
        steps = [_BATCH, _FLASH, _VULKAN]
    elif failure.copies > 1:
        why = (
            f"Weights and cache were there; then the working buffer{size}{on} failed. "
            f"Pipeline parallelism with {failure.copies} copies multiplies it."
        )
        steps = [_COPIES, _SLOTS, _BATCH, _FLASH]
    elif asked and asked >= ABSURD:
        why = (
            f"One buffer{size}{on} was asked for. No card has that: the reckoning behind it is off, not the"
            " memory."
        )
        steps = [_SLOTS, _BATCH, _FLASH, _COPIES]
    else:
        why = f"Weights and cache were there; then the working buffer{size}{on} could not be had."
        steps += [_BATCH, _SLOTS, _FLASH]
    confidence = 0.92 if failure.sure else 0.6
    if failure.over:
        why, confidence = why + " A later load in this log went well.", min(confidence, 0.6)
    return Finding(
        cause="compute_buffer_oom",
        title="One working buffer is too large for the GPU",
        severity=failures.severity(failure),
        confidence=confidence,
        evidence=failure.quotes,
        why=why,
        remedy=Remedy(text=REMEDY.text, commands=tuple(steps), verify=REMEDY.verify),
        ruled_out=(
            RuledOut(
                cause="vram_oom_on_load",
                why=(
                    "What failed is the working buffer, which comes after weights and cache."
                    if not asked or asked < 8 * GIB
                    else f"{format_size(asked)} in one piece is not what a model weighs."
                ),
            ),
        ),
        about=failure.load.model if failure.load else "",
    )


RULE = Rule(
    slug="compute_buffer_oom",
    title="A working buffer is too large",
    area="memory",
    meaning=(
        "Besides weights and cache the engine needs a buffer to compute in. It grows with batch, context,"
        " slots and copies, and some drivers grant no piece larger than a few GiB."
    ),
    signature=(
        (
            "pipeline parallelism enabled (n_copies=4) … allocating 360757.13 MiB … failed to allocate"
            " compute buffers"
        ),
        "Requested buffer size exceeds device memory allocation limit",
    ),
    certain="The line names compute buffers, or a size that is beyond any card.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="vram_oom_on_load", how="There the buffer of the weights or of the cache fails."),
        LookAlike(cause="healthy", how="«retrying without pipeline parallelism» after it: it mended itself."),
    ),
    signs=oom_signs.ALL,
    check=check,
    explains=("runner_crash_bug",),
)
