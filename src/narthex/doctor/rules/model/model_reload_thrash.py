"""The same models are loaded again and again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.loads import size_bytes
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.sequence import Again, keep_alive, payer, reloads, span
from narthex.doctor.rules.model.telling import (
    MANY_GOOD,
    count_in_log,
    good_later,
    quotes,
    short,
    spoken,
    told_as_past,
)
from narthex.doctor.sign import Sign
from narthex.doctor.signs import ollama
from narthex.doctor.story import Load, loads
from narthex.units import MIB

EVICTED = Sign(
    r"predicted to exceed available memory, evicting|max runners achieved, unloading one to make room"
    r"|resetting model to expire immediately to make room|msg=reloading|reloading runner"
)
LOADS_COUNTED = Sign(
    r"(?:model[- ])?loads?(?: events)?\b.{0,40}\(?(?:24 ?h|per day|last hour|1 ?h)\)?: ?(?P<count>\d{2,})",
    words=["load"],
)
_STARTING = 'msg="starting (llama-server|llama server|runner)" .*--model'
_ENOUGH = 3
_SWINGS = 2
_CHANGE = 256 * MIB
_QUICK_S = 60.0

REMEDY = Remedy(
    text="Give every client the same options for a model (context, batch, layers), best as parameters of "
    "the model "
    "itself; and let no more models take turns than fit together.",
    commands=(
        Command(
            text="Set OLLAMA_CONTEXT_LENGTH=N for the service and restart it",
            safe=False,
            note="then requests without num_ctx, those on /v1 and background tasks use the same context",
        ),
        Command(
            text="OpenWebUI: set num_ctx at the model (Admin, Models), and choose a small task model of its "
            "own in "
            "Admin Settings, Interface",
            safe=False,
            note="titles, tags and follow-ups are asked for without the chat's options",
        ),
        Command(
            text="Set OLLAMA_MAX_LOADED_MODELS and smaller contexts so that the models in use fit together",
            safe=False,
        ),
        Command(
            text="ollama ps",
            safe=True,
            argv=("ollama", "ps"),
            note="what is loaded now, how large, with which context",
        ),
    ),
    verify="One load for each model within its keep-alive, however many requests come.",
    verify_commands=(
        Command(
            text="docker logs --since 30m ollama 2>&1 | grep -cE 'msg=\"starting (llama-server|llama "
            "server|runner)\" .*--model'",
            safe=True,
        ),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Loads that came again for other options, or because other models took the room."""
    again = reloads(evidence)
    other = [one for one in again if one.differs and _soon(evidence, one)]
    turns = [one for one in again if not one.differs and one.between and _soon(evidence, one)]
    if len(other) >= _ENOUGH or (len(other) >= _ENOUGH - 1 and _returns(other)):
        yield _finding(
            evidence, "Clients ask for one model with different options", other, _options(evidence, other)
        )
    elif turns and (
        len(other) + len(turns) >= _ENOUGH or len({one.load.model for one in turns}) >= _ENOUGH - 1
    ):
        yield _finding(
            evidence,
            "Models take turns in memory and push each other out",
            turns,
            _turns(turns),
        )
    else:
        yield from _by_memory(evidence)


def _soon(evidence: Evidence, one: Again) -> bool:
    """Whether it was loaded again before its keep-alive can have run out."""
    kept = keep_alive(evidence)
    waited = one.idle_s if one.idle_s is not None and not one.between else one.gap_s
    return kept is None or waited is None or waited < kept * 0.98 or bool(one.differs and waited < kept * 2)


def _returns(rows: Sequence[Again]) -> bool:
    """Whether options come back that had been there: two clients, and not one who tries something out."""
    seen: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    for one in rows:
        for load in (one.before, one.load):
            if not seen[load.model] or seen[load.model][-1] != _key(load):
                seen[load.model].append(_key(load))
    return any(count >= 2 for keys in seen.values() for count in Counter(keys).values())


def _key(load: Load) -> tuple[object, ...]:
    command = load.command
    if command is None:
        return (load.num_ctx, load.batch, load.gpu_layers)
    return (
        command.num_ctx,
        command.batch,
        command.gpu_layers,
        command.mmap,
        command.threads,
        command.parallel,
    )


def _finding(evidence: Evidence, title: str, rows: Sequence[Again], why: str) -> Finding:
    """As past where the server was started anew since, and many requests came without another reload."""
    found, last = _present(evidence, title, rows, why), rows[-1].load.last
    since = good_later(evidence, last)
    return told_as_past(evidence, last, found) if len(since) > MANY_GOOD else found


def _present(evidence: Evidence, title: str, rows: Sequence[Again], why: str) -> Finding:
    count = len(rows)
    dated = [one.load for one in rows]
    lasted = span([rows[0].before, *dated])
    spent = sum(load.seconds or 0.0 for load in dated)
    told = f"{count} loads of models that had been loaded before"
    if lasted:
        told += f", within {spoken(lasted)}"
    if spent >= 1.0:
        told += f"; {spoken(spent)} of it spent loading"
    entries = dict.fromkeys((rows[0].before.entry, *(load.entry for load in dated)))
    paid = [one for load in dated[:2] if (one := payer(evidence, load))]
    return Finding(
        cause="model_reload_thrash",
        title=title,
        severity=Severity.WARNING,
        confidence=0.9 if count >= 2 * _ENOUGH else 0.8,
        evidence=(*(entry.quote() for entry in list(entries)[:3]), *(one.entry.quote() for one in paid[:1])),
        why=f"{told}. {why}",
        ruled_out=(
            RuledOut(
                cause="keep_alive_unload_reload",
                why="They were loaded again long before their keep-alive had run out.",
            ),
            RuledOut(cause="runner_crash_bug", why="No runner died between the loads: each was replaced."),
        ),
        remedy=msgspec.structs.replace(REMEDY, verify_commands=(count_in_log(evidence, _STARTING),)),
        about=", ".join(dict.fromkeys(short(load.model) for load in dated[:3])),
    )


def _options(evidence: Evidence, rows: Sequence[Again]) -> str:
    """Which options, and who asked for which."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for name in list(dict.fromkeys(name for one in rows for name, _, _ in one.differs))[:4]:
        for one in rows:
            for option, before, now in one.differs:
                if option == name:
                    values[name][str(now)] += 1
                    if not values[name][str(before)]:
                        values[name][str(before)] += 1
    told = "; ".join(
        f"{name}: " + ", ".join(f"{value} ({count}×)" for value, count in counts.most_common(4))
        for name, counts in values.items()
    )
    who = _who(evidence, rows)
    text = f"What differs is {told}."
    if who:
        text += f" Asked for by {who}."
    if "/v1/" in who and "/api/" in who:
        text += " A client on /v1 can't send options, so it always asks for the default."
    return text


def _who(evidence: Evidence, rows: Sequence[Again]) -> str:
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for one in rows:
        request = payer(evidence, one.load)
        if request is not None:
            now = ", ".join(f"{name} {value}" for name, _, value in one.differs[:2])
            asked[f"{request.client} on {request.path}"][now] += 1
    return "; ".join(
        f"{client} ({', '.join(f'{what}: {count}×' for what, count in counts.most_common(3))})"
        for client, counts in list(asked.items())[:4]
    )


def _turns(rows: Sequence[Again]) -> str:
    counts = Counter(short(one.load.model) for one in rows)
    told = ", ".join(f"{model} ({count}×)" for model, count in counts.most_common(4))
    return (
        f"Taking turns: {told}, with the same options each time. They do not fit into the memory "
        "together, or OLLAMA_MAX_LOADED_MODELS allows no more."
    )


def _by_memory(evidence: Evidence) -> Iterator[Finding]:
    """Where the lines of the loads are not at hand: the free video memory goes up and down."""
    if len(loads(evidence)) > len(evidence.hits(ollama.UPDATED_VRAM)):
        return
    rows, evicted = evidence.hits(ollama.UPDATED_VRAM), evidence.hits(EVICTED)
    quick, falls = _swings(rows)
    pushed = len(quick) >= _SWINGS and falls > 0
    if not pushed and len(evicted) <= _ENOUGH:
        return
    counted = evidence.hits(LOADS_COUNTED)
    rows = rows if pushed else evicted
    most = max((int(hit["count"]) for hit in counted), default=0)
    lasted = (
        rows[-1].entry.at - rows[0].entry.at
        if rows[0].entry.at is not None and rows[-1].entry.at is not None
        else None
    )
    yield Finding(
        cause="model_reload_thrash",
        title="Models are loaded and pushed out again and again",
        severity=Severity.WARNING,
        confidence=0.75 if most else 0.6,
        evidence=(*quotes(counted, 1), *quotes(rows, 4)),
        why=(
            f"Ollama reckoned anew with loaded models {len(rows)} times"
            + (f" within {spoken(lasted)}" if lasted else "")
            + (f", and {len(quick)} times it freed video memory within {_QUICK_S:.0f} s" if pushed else "")
            + (f"; {most} loads were counted" if most else "")
            + ". That happens when another model, or the same one with other options, needs the room."
        ),
        ruled_out=(
            RuledOut(
                cause="keep_alive_unload_reload", why="Room was made for another load; no timer ran out."
            ),
        ),
        remedy=REMEDY,
    )


def _swings(hits: Sequence[Hit]) -> tuple[list[Hit], int]:
    """Lines at which much more is free than a moment before: a model was pushed out and none expired. And how
    often less was free after that: another one took the room."""
    quick: list[Hit] = []
    falls = 0
    for one, later in pairwise(hits):
        before, free = size_bytes(one["available"]), size_bytes(later["available"])
        if before is None or free is None or one.entry.source != later.entry.source:
            continue
        soon = one.entry.at is None or later.entry.at is None or later.entry.at - one.entry.at < _QUICK_S
        if free > before + _CHANGE and soon:
            quick.append(later)
        elif free < before - _CHANGE:
            falls += bool(quick)
    return quick, falls


RULE = Rule(
    slug="model_reload_thrash",
    title="Models are loaded again and again",
    area="model",
    meaning="Ollama keeps one runner for a model file, with one set of options. A request with another "
    "context, batch, "
    "number of layers or threads, or another model that does not fit beside it, makes it unload and load "
    "anew. That looks "
    "like slowness; at the usual log level nothing names it.",
    signature=(
        'msg="starting llama-server" … for a model that was loaded a moment ago',
        "updated VRAM based on existing loaded models … available= going up and down",
        "msg=reloading (only with OLLAMA_DEBUG=1)",
    ),
    certain="Compare the command lines of two loads of the same sha256: what differs there is what the "
    "clients ask for.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="keep_alive_unload_reload",
            how="The options are the same, and the pauses longer than the keep-alive.",
        ),
        LookAlike(
            cause="owui_task_options_differ",
            how="It is OpenWebUI's own background tasks that come without options.",
        ),
        LookAlike(
            cause="client_timeout_aborts_load", how="The loads never end: their client hangs up, status 499."
        ),
        LookAlike(cause="runner_crash_bug", how="The runner died before each load."),
    ),
    signs=(EVICTED, LOADS_COUNTED),
    explains=("vram_not_recovered", "queue_full"),
    check=check,
)
