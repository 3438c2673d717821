"""The cache for the context is what does not fit; the weights alone would."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, placement, remedies, tenants
from narthex.doctor.rules.memory.failures import Failure, Phase
from narthex.doctor.rules.memory.placement import Placement, Reason
from narthex.doctor.sign import Sign
from narthex.doctor.story import loads
from narthex.units import GIB, format_size

SET = Sign(
    r"num_ctx['\" :=to]+(\d{4,})|OLLAMA_CONTEXT_LENGTH[=: \"]+(\d{4,})",
    words=["num_ctx", "ollama_context_length"],
)
_HUGE = 65536  # tokens; for an 8B model the cache of these takes more than its weights

REMEDY = Remedy(
    text="Ask for less context, or store the cache in half the room.",
    commands=remedies.lighter(),
    verify="All layers are on the GPU: «offloaded N/N layers to GPU».",
    verify_commands=(remedies.SHOW_RESIDENTS,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A load that lost layers to its cache, a cache that could not be had, or a model in memory now."""
    rows = [one for one in placement.placements(evidence) if one.reason is Reason.CONTEXT]
    if rows:
        yield _of_load(evidence, rows[-1])
        return
    failure = failures.pending(evidence, Phase.KV)
    if failure is not None and (found := _of_failure(evidence, failure)):
        yield found
        return
    yield from _of_near_miss(evidence)
    yield from _of_resident(evidence)
    if not loads(evidence):
        yield from _of_words(evidence)


def _of_load(evidence: Evidence, found: Placement) -> Finding:
    load = found.load
    tokens = f" for {load.num_ctx} tokens" if load.num_ctx else ""
    layers = f"{load.layers_on} of {load.layers_of} layers are on the GPU. " if load.layers_of else ""
    weights = f"The weights take {format_size(found.weights_bytes)}. " if found.weights_bytes else ""
    free = f" {format_size(found.available_bytes)} were free." if found.available_bytes else ""
    known = found.weights_bytes is not None and found.available_bytes is not None
    host = load.kv_bytes.get("Host", 0)
    part = f" {format_size(host)} of it lie in main memory." if host else ""
    return _finding(
        quotes=(*found.quotes, *_pinned(evidence, found)),
        why=f"{layers}{weights}The cache{tokens} takes {format_size(found.kv_bytes)}.{part}{free}",
        confidence=0.85 if known else 0.75,
        about=load.model,
        ctx=load.num_ctx,
        ruled_out=(
            RuledOut(
                cause="partial_offload_slow",
                why=(
                    "With little context the whole model would fit on the GPU."
                    if known
                    else "The cache takes more than what of the model is on the GPU."
                ),
            ),
        ),
    )


def _of_failure(evidence: Evidence, failure: Failure) -> Finding | None:
    if failure.asked_bytes is None or failure.load is None:
        return None
    weights = sum(failure.load.weights_bytes.values())
    if not weights or failure.asked_bytes < max(weights, 2 * GIB):
        return None
    ctx = failure.load.num_ctx
    return _finding(
        quotes=failure.quotes,
        why=(
            f"The cache{f' for {ctx} tokens' if ctx else ''} asks for {format_size(failure.asked_bytes)} "
            f"in one piece; the weights take {format_size(weights)}."
        ),
        confidence=0.7,
        about=failure.load.model,
        ctx=ctx,
    )


def _of_near_miss(evidence: Evidence) -> Iterator[Finding]:
    """Too large by its weights, and the cache is a good part of the rest: worth a second place."""
    for one in placement.placements(evidence):
        kv, weights = one.kv_bytes or 0, one.weights_bytes or 0
        if (
            one.reason is Reason.WEIGHTS
            and weights
            and kv > 0.15 * weights
            and weights < (one.available_bytes or 0)
        ):
            yield _finding(
                quotes=one.quotes,
                why=(
                    f"The cache takes {format_size(kv)} beside {format_size(weights)} of weights; with less "
                    f"context more layers fit into the {format_size(one.available_bytes)} that were free."
                ),
                confidence=0.4,
                about=one.load.model,
                ctx=one.load.num_ctx,
            )
            return


def _of_resident(evidence: Evidence) -> Iterator[Finding]:
    """What is loaded now: its file would fit the card, with its cache it does not."""
    card = tenants.card_total(evidence)
    sizes = {row.get("name"): row.get("size_bytes") for row in evidence.value("ollama.models") or ()}
    for resident in tenants.residents(evidence):
        file = sizes.get(resident.model)
        share, size = resident.share, resident.size_bytes
        if not (resident.live and card and file and size and share is not None and 0 < share < 0.99):
            continue
        if file + GIB < card <= size and size - file > 0.25 * file:
            yield _finding(
                quotes=(resident.quote,),
                why=(
                    f"{resident.model} takes {format_size(size)} with {resident.num_ctx} tokens of context; "
                    f"its file is {format_size(file)}, the card {format_size(card)}."
                ),
                confidence=0.75,
                about=resident.model,
                ctx=resident.num_ctx,
            )
            return


def _of_words(evidence: Evidence) -> Iterator[Finding]:
    """A transcript alone: a huge context was set or is shown, and the model is not wholly on the GPU."""
    rows = tenants.residents(evidence)
    gpu = any(one.share for one in rows) or bool(tenants.card_total(evidence))
    small = [one for one in rows if one.share is not None and one.share < 0.99 and not one.live]
    if not small or not gpu:
        return
    shown = small[-1].num_ctx or 0
    hit = evidence.last(SET)
    asked = int(next(value for value in hit.match.groups() if value)) if hit else 0
    if max(shown, asked) < _HUGE:
        return
    quotes = (small[-1].quote, *((hit.quote(),) if hit and asked > shown else ()))
    yield _finding(
        quotes=quotes,
        why=f"{small[-1].model} takes {format_size(small[-1].size_bytes)} with {max(shown, asked)} tokens of "
        "context, and not all of it is on the GPU.",
        confidence=0.6,
        about=small[-1].model,
        ctx=max(shown, asked),
    )


def _pinned(evidence: Evidence, found: Placement) -> tuple[Quote, ...]:
    hits = [hit for hit in evidence.hits(placement.PINNED) if hit.entry.source == found.load.source]
    return tuple(hit.quote() for hit in hits[-1:])


def _finding(
    *,
    quotes: tuple[Quote, ...],
    why: str,
    confidence: float,
    about: str,
    ctx: int | None,
    ruled_out: tuple[RuledOut, ...] = (),
) -> Finding:
    return Finding(
        cause="context_too_large",
        title="The context is too large for the GPU: its cache pushes the model off",
        severity=Severity.WARNING,
        confidence=confidence,
        evidence=quotes,
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=remedies.lighter(ctx=ctx),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=ruled_out,
        about=about,
    )


RULE = Rule(
    slug="context_too_large",
    title="The context is too large",
    area="memory",
    meaning=(
        "The cache grows with the context that is asked for, used or not. Here it takes the room of the"
        " layers."
    ),
    signature=("KV buffer size larger than the weights on the card", "offloaded 20/33 layers to GPU"),
    certain="Weights and working buffers together are less than what was free; with the cache they are more.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="partial_offload_slow", how="The weights alone are larger than the card."),
        LookAlike(
            cause="num_parallel_multiplies_kv", how="One slot would fit; OLLAMA_NUM_PARALLEL multiplies it."
        ),
        LookAlike(cause="context_truncated", how="There the context is too small, and the prompt is cut."),
    ),
    signs=(SET, *oom_signs.ALL, *placement.SIGNS, *tenants.SIGNS),
    check=check,
    readings=("ollama.resident",),
    explains=("partial_offload_slow", "host_ram_insufficient"),
)
