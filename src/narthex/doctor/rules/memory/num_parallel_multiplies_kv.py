"""Every parallel slot has a cache of its own: with one slot the model would fit."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Quote, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, host_memory, oom_signs, placement, remedies, tenants
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.rules.memory.failures import Phase
from narthex.doctor.rules.memory.placement import Reason
from narthex.doctor.rules.model.telling import version
from narthex.doctor.sign import Sign
from narthex.doctor.story import Load, loads
from narthex.engines.ollama.eras import default_parallel
from narthex.units import GIB, format_size

SET = Sign(r"OLLAMA_NUM_PARALLEL[:=] ?\"?(?P<slots>[1-9]\d*)")
REMEDY = Remedy(
    text="Use one slot, or so many as the memory holds. A single person needs one.",
    commands=(
        Command(text="Set OLLAMA_NUM_PARALLEL=1 for the service and restart it", safe=False),
        *remedies.lighter(),
    ),
    verify="The memory that the model needs falls by the factor: see «KvSize», «-c» or «ollama ps».",
    verify_commands=(remedies.SHOW_RESIDENTS,),
)


_MANY = 8  # so many whole contexts outweigh the weights of most models
_ABSURD = 3  # so many times the memory that is there is asked for by no model that was chosen for it
_HUGE = 256 * GIB  # hardly any weights are so large: the rest is cache


def check(evidence: Evidence) -> Iterator[Finding]:
    """Figures of a load with several slots; or a setting of several slots where memory ran out."""
    rows = [one for one in placement.placements(evidence) if one.reason is Reason.PARALLEL]
    if rows:
        one = rows[-1]
        yield _finding(one.load, one.kv_bytes, one.available_bytes, one.quotes, 0.85)
        return
    trouble = _trouble(evidence)
    if not trouble:
        return
    for load in reversed(loads(evidence)):
        slots = load.parallel or 1
        kv = sum(load.kv_bytes.values())
        if slots > 1 and (kv - kv / slots > GIB or slots >= 4):
            sure = kv > sum(load.weights_bytes.values()) / 2 > 0
            yield _finding(
                load, kv or None, load.available_bytes, (load.entry.quote(), *trouble), 0.7 if sure else 0.45
            )
            return
    hit = evidence.last(SET)
    if hit is not None and int(hit["slots"]) > 1:
        slots = int(hit["slots"])
        yield Finding(
            cause="num_parallel_multiplies_kv",
            title=f"OLLAMA_NUM_PARALLEL={slots} multiplies the memory for the context",
            severity=Severity.WARNING,
            confidence=_confidence(evidence, slots),
            evidence=(hit.quote(), *trouble),
            why=f"{slots} slots are set, so the cache is {slots} times that of one, and memory ran out.",
            remedy=REMEDY,
        )
    elif hit is None and not any(load.parallel for load in loads(evidence)):
        yield from _by_default(evidence)


def _by_default(evidence: Evidence) -> Iterator[Finding]:
    """Ollama 0.2 to 0.9 took several slots by itself. A need that is several times the machine, by a model
    that is not so large itself, is mostly cache."""
    hit = evidence.last(host_memory.REFUSED)
    needs, has = (size_of(hit["needs"]), size_of(hit["has"])) if hit else (None, None)
    told = version(evidence)
    slots = default_parallel(told) if told else 0
    file = _largest(evidence)
    if hit is None or not needs or not has or slots == 1 or file > has:
        return
    if needs < min(_ABSURD * has, _HUGE):
        return
    one = file + (needs - file) / slots if file and slots else None
    of = f"Ollama {told} takes up to {slots} slots" if slots else "Ollama 0.2 to 0.9 takes up to 4 slots"
    yield Finding(
        cause="num_parallel_multiplies_kv",
        title="Perhaps parallel slots multiply the memory for the context",
        severity=Severity.WARNING,
        confidence=0.66 if one and one <= has else 0.45 if slots else 0.4,
        evidence=(hit.quote(),),
        why=(
            f"{hit['needs']} are {needs / has:.1f} times what is available. {of} where none are set, each "
            "with a cache for the whole context; no line here tells how many there were."
            + (f" With one slot it would be about {format_size(round(one))}." if one else "")
        ),
        remedy=REMEDY,
    )


def _largest(evidence: Evidence) -> int:
    """Of the models that ``ollama list`` tells, bytes; 0 where it is not there."""
    rows = evidence.search(r"\b[0-9a-f]{12} (?P<size>\d[\d.]* [GM]B)\b", "commands")
    return max((size_of(row["size"]) or 0 for row in rows), default=0)


def _confidence(evidence: Evidence, slots: int) -> float:
    """The more slots, the surer; also where what is short is less than what one slot would save."""
    if slots >= _MANY:
        return 0.7
    refused = evidence.last(host_memory.REFUSED)
    needs, has = (size_of(refused["needs"]), size_of(refused["has"])) if refused else (None, None)
    if slots >= 4 and needs and has and needs / has < slots / 2:
        return 0.66
    return 0.55 if slots >= 4 else 0.4


def _trouble(evidence: Evidence) -> tuple[Quote, ...]:
    """Where memory ran out, at load."""
    failure = failures.pending(evidence, Phase.KV, Phase.WEIGHTS, Phase.LOAD, Phase.COMPUTE)
    if failure is not None:
        return failure.quotes[:2]
    hit = evidence.last(host_memory.REFUSED, host_memory.TOO_LARGE)
    if hit is not None:
        return (hit.quote(),)
    rows = placement.placements(evidence)
    if rows:
        return rows[-1].quotes[:2] if rows[-1].reason is Reason.UNKNOWN else ()
    small = [one for one in tenants.residents(evidence) if one.share is not None and one.share < 0.99]
    return tuple(one.quote for one in small[:1])


def _finding(
    load: Load, kv: int | None, free: int | None, quotes: tuple[Quote, ...], confidence: float
) -> Finding:
    slots = load.parallel or 1
    one = f" One slot would need {format_size(round(kv / slots))}." if kv else ""
    ctx = f" of {load.num_ctx} tokens" if load.num_ctx else ""
    cache = f"the cache takes {format_size(kv)}" if kv else "the cache is as many times that of one"
    room = f" {format_size(free)} were free." if free else ""
    return Finding(
        cause="num_parallel_multiplies_kv",
        title=f"{slots} parallel slots multiply the memory for the context",
        severity=Severity.WARNING,
        confidence=confidence,
        evidence=tuple(dict.fromkeys(quotes)),
        why=f"With {slots} slots{ctx} {cache}.{one}{room}",
        remedy=REMEDY,
        about=load.model,
    )


RULE = Rule(
    slug="num_parallel_multiplies_kv",
    title="Parallel slots multiply the cache",
    area="memory",
    meaning=(
        "Each slot of OLLAMA_NUM_PARALLEL gets the whole context. The engine is started with their product."
    ),
    signature=("Parallel:4 … KvSize:32768 where num_ctx is 8192", "--ctx-size 32768 --parallel 4"),
    certain=(
        "With one slot weights, cache and working buffers fit into what was free; with all of them they do"
        " not."
    ),
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="context_too_large", how="Also one slot alone is too large."),
        LookAlike(cause="partial_offload_slow", how="The weights alone are too large."),
    ),
    signs=(SET, *oom_signs.ALL, *placement.SIGNS, *host_memory.ALL, *tenants.SIGNS),
    check=check,
    explains=("partial_offload_slow", "vram_oom_on_load", "compute_buffer_oom", "host_ram_insufficient"),
)
