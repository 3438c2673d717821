"""What Ollama made of a load, held against what was asked: every difference is said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.engines._base import LoadReport
from narthex.engines.ollama.eras import has
from narthex.engines.ollama.log import RunnerCommand
from narthex.engines.ollama.records import Resident
from narthex.knobs import KnobValues

_TRAINED = re.compile(r"requested context size too large for model.*?n_ctx_train=(\d+)")
_LOWERED = "reducing automatic context and retrying"
_EVICTED = "evicting all other models and retrying"
_PADDING = 256  # llama.cpp rounds a slot up to a multiple of it


def settled_ctx(report: LoadReport, command: RunnerCommand | None, resident: Resident) -> int | None:
    """Tokens of one slot as they really are: by the engine's log, its command line, else Ollama's list."""
    return report.num_ctx or (command.num_ctx if command else None) or resident.context_length


def differences(
    knobs: KnobValues, report: LoadReport, command: RunnerCommand | None, lines: Sequence[str], version: str
) -> Iterator[str]:
    """One sentence for each knob that came out otherwise, with Ollama's reason where its log has one.

    ``report.num_ctx`` must be settled. What neither log nor command line tells is passed over.
    """
    yield from _context(knobs, report, lines)
    yield from _placement(knobs, report, command if has(version, "fit") else None)
    if command is not None:
        yield from _command(knobs, command)
    if any(_EVICTED in line for line in lines):
        yield "Memory: the first try failed; Ollama unloaded every other model and tried again."


def _context(knobs: KnobValues, report: LoadReport, lines: Sequence[str]) -> Iterator[str]:
    asked, got = knobs.num_ctx, report.num_ctx
    if got is None or asked <= got < asked + _PADDING:
        return
    if trained := next((found[1] for line in reversed(lines) if (found := _TRAINED.search(line))), None):
        why = f"the model was trained for {trained}"
    elif any(_LOWERED in line for line in lines):
        why = "the memory was too small for more, and Ollama tried again with less"
    else:
        why = "its log does not say why"
    yield f"Context: {asked} tokens were asked for, Ollama loaded {got}; {why}."


def _placement(knobs: KnobValues, report: LoadReport, command: RunnerCommand | None) -> Iterator[str]:
    """``command``: of a version that leaves automatic layers to the engine; earlier ones wrote them there."""
    asked, placed, total = knobs.gpu_layers, report.offloaded_layers, report.total_layers
    if asked is None:
        if command is not None and command.gpu_layers is not None:
            yield f"Layers: Ollama's own placement was asked for, the runner was told {command.gpu_layers}."
    elif placed is not None and placed != min(asked, total or asked):
        yield f"Layers: {asked} were asked for, {placed} are on the GPU."


def _command(knobs: KnobValues, command: RunnerCommand) -> Iterator[str]:
    if command.ubatch is not None and command.ubatch != knobs.ubatch:
        yield f"Batch: {knobs.ubatch} was meant, Ollama took {command.ubatch}."
    if command.parallel is not None and command.parallel != knobs.parallel:
        yield f"Slots: {knobs.parallel} were meant, the runner has {command.parallel}."
    if command.kv_type is not None and command.kv_type != knobs.kv_type:
        yield f"KV cache: {knobs.kv_type} was meant, the runner has {command.kv_type}."
    if knobs.threads is not None and command.threads not in (None, knobs.threads):
        yield f"Threads: {knobs.threads} were asked for, the runner has {command.threads}."
    if knobs.mmap != "auto" and command.mmap not in (None, knobs.mmap == "on"):
        came = "on" if command.mmap else "off"
        yield f"Weights: mmap {knobs.mmap} was asked for, the runner has it {came}."
