"""Another process holds the card's memory."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, placement, remedies, tenants, torch_oom
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.rules.memory.failures import Failure, Phase
from narthex.doctor.rules.memory.placement import Placement, Reason
from narthex.doctor.rules.memory.tenants import Tenant
from narthex.doctor.rules.memory.torch_oom import TorchOom
from narthex.doctor.sign import Sign
from narthex.doctor.signs import ollama
from narthex.doctor.story import loads, starts
from narthex.units import GIB, MIB, format_size

# llama-server's table: total = free + own + unaccounted, in MiB.
BREAKDOWN = Sign(
    r"- (?P<device>\w+) \([^|]*\) \| (?P<total>\d+) = (?P<free>\d+) \+ \((?P<own>\d+) =.*\) \+"
    r" (?P<rest>\d+) \|",
    words=["memory_breakdown_print"],
)
_AT_LOAD = (Phase.WEIGHTS, Phase.KV, Phase.LOAD, Phase.COMPUTE, Phase.CONTEXT, Phase.WORK)

REMEDY = Remedy(
    text="Find the other process and let it give the memory back: close it, or give it another card or time.",
    commands=(
        remedies.LOOK_AT_TENANTS,
        Command(text="nvidia-smi pmon -c 1", safe=True, note="also those that draw the screen"),
        Command(text="Stop the process, by its own means", safe=False),
    ),
    verify="Before the next load the card is nearly empty.",
    verify_commands=(remedies.SHOW_CARD, remedies.SHOW_TENANTS),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """PyTorch's own figures; else a load in trouble on a card that was not free."""
    blamed = [one for one in torch_oom.torch_ooms(evidence) if one.blames_others]
    if blamed:
        yield _of_torch(evidence, blamed[-1])
        return
    failure = failures.pending(evidence, *_AT_LOAD)
    if failure is not None and not failure.single and (found := _of_failure(evidence, failure)):
        yield found
        return
    for one in placement.placements(evidence):
        if one.reason is Reason.NEIGHBOURS or (one.reason is Reason.UNKNOWN and one.much_is_missing):
            yield _of_placement(evidence, one)
            return
    yield from _of_resident(evidence)
    if not placement.placements(evidence):
        yield from _of_readiness(evidence)


def _of_readiness(evidence: Evidence) -> Iterator[Finding]:
    """A load is only begun in this log, on a card that was nearly full though Ollama held nothing."""
    hit = evidence.last(ollama.GPU_MEMORY)
    begun = [one for one in starts(evidence) if one.gpus]
    held = evidence.has(ollama.UPDATED_VRAM) or any(load.end == "ready" for load in loads(evidence))
    if hit is None or held or len(begun) != 1 or len(begun[0].gpus) != 1:
        return
    card, free = begun[0].gpus[0].total_bytes, size_of(hit["available"])
    if card and free is not None and free < 0.25 * card and card - free > 4 * GIB:
        why = (
            f"Of {format_size(card)} only {format_size(free)} were free when a load began, and Ollama itself "
            "held nothing. How the load ended is not in this log."
        )
        quotes = (begun[0].gpus[0].entry.quote(), hit.quote())
        yield _finding(quotes, why, 0.55, severity=Severity.WARNING)


def _of_torch(evidence: Evidence, report: TorchOom) -> Finding:
    others = report.others_bytes or 0
    named = [one for one in tenants.strangers(evidence) if one.vram_bytes > GIB]
    who = ", ".join(f"PID {pid} holds {format_size(size)}" for pid, size in report.others)
    why = (
        f"The program itself holds {format_size(report.own_bytes)} of {format_size(report.total_bytes)}, yet "
        f"only {format_size(report.free_bytes)} are free: {format_size(others)} belong to other processes"
        + (f" ({who})." if who else ".")
    )
    return _finding(
        (*report.quotes, *(one.quote for one in named[:1])),
        why,
        0.9 if report.others else 0.85,
        ruled_out=RuledOut(
            cause="comfyui_vram_oom", why="It was itself far below the card's size when it failed."
        ),
        named=named,
        pid=report.others[0][0] if report.others else None,
    )


def _of_failure(evidence: Evidence, failure: Failure) -> Finding | None:
    """An allocation failed: was the card taken before, and would the model fit an empty one?"""
    if (failure.asked_bytes or 0) >= failures.ABSURD:
        return None
    load = placement.place(evidence, failure.load) if failure.load is not None else None
    named = [one for one in tenants.strangers(evidence) if one.vram_bytes > 1.5 * GIB]
    card = tenants.card_total(evidence)
    if named and (card is None or named[0].vram_bytes > 0.2 * card):
        whose = f"{named[0].label} holds {format_size(named[0].vram_bytes)} of the card."
        return _finding((*failure.quotes, named[0].quote), whose, 0.8, ruled_out=_NOT_LOAD, named=named)
    if load is not None and load.much_is_missing and not _hopeless(load):
        quotes = (*failure.quotes, *_starts(evidence, load))
        if failure.over:
            why = _missing(load) + " A later load in this log went well."
            return _finding(quotes, why, 0.5, severity=failures.severity(failure), ruled_out=_NOT_LOAD)
        return _finding(quotes, _missing(load), 0.75, ruled_out=_NOT_LOAD)
    if failure.phase is Phase.CONTEXT:
        why = (
            "Not even the driver's own context could be made on the card: it was full before the model came. "
            "With several cards it is enough that one of them is full."
        )
        return _finding(failure.quotes, why, 0.65, ruled_out=_NOT_LOAD)
    return _of_breakdown(evidence, failure.quotes)


_NOT_LOAD = RuledOut(cause="vram_oom_on_load", why="The card was not empty when the model came.")
_NOT_LARGER = RuledOut(cause="partial_offload_slow", why="On the empty card the whole model would fit.")


def _of_breakdown(evidence: Evidence, quotes: tuple[Quote, ...]) -> Finding | None:
    hit = evidence.last(BREAKDOWN)
    if hit is None or int(hit["rest"]) < max(2048, 0.25 * int(hit["total"])):
        return None
    rest, total = int(hit["rest"]) * MIB, int(hit["total"]) * MIB
    why = (
        f"Of {format_size(total)} on {hit['device']}, {format_size(rest)} belong to nobody that this server "
        "knows."
    )
    return _finding((*quotes, hit.quote()), why, 0.7, ruled_out=_NOT_LOAD)


def _of_placement(evidence: Evidence, found: Placement) -> Finding:
    load, sure = found.load, found.reason is Reason.NEIGHBOURS
    layers = f" So only {load.layers_on} of {load.layers_of} layers are on the GPU." if load.layers_of else ""
    named = [one for one in tenants.strangers(evidence) if one.vram_bytes > GIB]
    return _finding(
        (*_starts(evidence, found), *found.quotes, *(one.quote for one in named[:1])),
        _missing(found) + layers,
        0.8 if sure else 0.6,
        severity=Severity.WARNING,
        ruled_out=_NOT_LARGER if sure else None,
        named=named,
        about=load.model,
    )


def _of_resident(evidence: Evidence) -> Iterator[Finding]:
    """Now: a model is partly on the CPU that would fit the card, and a process holds the difference."""
    card = tenants.card_total(evidence)
    named = [one for one in tenants.strangers(evidence) if card and one.vram_bytes > 0.15 * card]
    if not card or not named:
        return
    for one in tenants.residents(evidence):
        size = one.size_bytes
        if one.share is not None and one.share < 0.99 and size and size < 0.95 * card:
            why = (
                f"{one.model} needs {format_size(size)} and would fit the card of {format_size(card)}, but "
                f"{named[0].label} holds {format_size(named[0].vram_bytes)}; so a part of it is on the CPU."
            )
            quotes = (one.quote, named[0].quote)
            yield _finding(quotes, why, 0.8, severity=Severity.WARNING, named=named, about=one.model)
            return


def _hopeless(found: Placement) -> bool:
    """Whether not even the empty card would do."""
    needs = (found.weights_bytes or 0) + (found.kv_bytes or 0) + found.graph_bytes
    return needs > (found.card_bytes or 0)


def _missing(found: Placement) -> str:
    own = f", of which Ollama itself held {format_size(found.held_bytes)}" if found.held_bytes else ""
    return (
        f"Of {format_size(found.card_bytes)} only {format_size(found.available_bytes)} were free before the "
        f"load{own}: others held some {format_size(found.missing_bytes)}."
    )


def _starts(evidence: Evidence, found: Placement) -> tuple[Quote, ...]:
    begun = [one for one in starts(evidence) if one.gpus]
    return (begun[-1].gpus[0].entry.quote(),) if begun and found.card_bytes else ()


def _finding(
    quotes: tuple[Quote, ...],
    why: str,
    confidence: float,
    *,
    severity: Severity = Severity.ERROR,
    ruled_out: RuledOut | None = None,
    named: list[Tenant] | None = None,
    pid: int | None = None,
    about: str = "",
) -> Finding:
    first = named[0] if named else None
    pid = first.pid if first else pid
    steps = [*REMEDY.commands[:2], *([_who(pid)] if pid is not None else []), REMEDY.commands[2]]
    return Finding(
        cause="vram_contention_other_process",
        title=f"{first.label} holds the GPU's memory" if first else "Another process holds the GPU's memory",
        severity=severity,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=why,
        remedy=msgspec.structs.replace(REMEDY, commands=tuple(steps)),
        ruled_out=(ruled_out,) if ruled_out is not None else (),
        about=about,
    )


def _who(pid: int) -> Command:
    return Command(text=f"ps -o pid,user,etime,cmd -p {pid}", safe=True, note="who it is")


RULE = Rule(
    slug="vram_contention_other_process",
    title="Another process holds the GPU's memory",
    area="memory",
    meaning=(
        "The model would fit an empty card. Another program sits on it: a game, a training, a second server."
    ),
    signature=(
        'gpu memory … available="3.1 GiB" on a card of 24 GiB',
        "Device limit 15.72 GiB, Currently allocated 7.71 GiB, Free (according to CUDA) 25.06 MiB",
        "Process 4711 has 16.00 GiB memory in use",
    ),
    certain="What was free before the load, plus what Ollama itself holds, is far below the card's size.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="vram_contention_comfyui_ollama",
            how="The other process is ComfyUI, or Ollama: both are yours.",
        ),
        LookAlike(cause="vram_oom_on_load", how="The card was empty; the model is larger."),
        LookAlike(cause="vram_not_recovered", how="It was Ollama's own last model, and the driver was slow."),
    ),
    signs=(BREAKDOWN, *oom_signs.ALL, *placement.SIGNS, *tenants.SIGNS, *torch_oom.SIGNS),
    check=check,
    readings=("gpu.process",),
    explains=(
        "vram_oom_on_load",
        "vram_oom_in_generation",
        "partial_offload_slow",
        "comfyui_vram_oom",
        "compute_buffer_oom",
    ),
)
