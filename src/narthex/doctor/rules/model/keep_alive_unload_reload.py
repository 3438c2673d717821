"""The pause between requests is a little longer than the keep-alive, so each one pays a load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.sequence import Again, keep_alive, payer, reloads
from narthex.doctor.rules.model.telling import quotes, short, spoken
from narthex.doctor.sign import Sign
from narthex.doctor.signs import harmless

EXPIRED = Sign(r"timer expired, expiring to unload|runner expired event received", words=["expir"])
_CLOCK = r"(?<![\d:])(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d):(?P<s>[0-5]\d)(?![\d:])"
_JUST_OVER = 1.5  # times the keep-alive: a longer pause is no pattern, just a pause
_ENOUGH = 2
_DAY_S = 86_400

REMEDY = Remedy(
    text="Keep the model loaded longer than the longest usual pause, as far as nothing else needs the "
    "memory.",
    commands=(
        Command(
            text="Set OLLAMA_KEEP_ALIVE=1h for the service and restart it",
            safe=False,
            note="-1 keeps it for ever; then other programs never get its memory",
        ),
        Command(
            text='In the client\'s requests: "keep_alive": "1h"',
            safe=False,
            note="holds for the model until another request says otherwise; /v1 can't send it",
        ),
    ),
    verify="After a pause of the old length the first words come as quickly as before it.",
    verify_commands=(
        Command(
            text="ollama ps", safe=True, argv=("ollama", "ps"), note="UNTIL shows how long the model stays"
        ),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Loads with the same options after pauses just over the keep-alive."""
    kept = keep_alive(evidence)
    if kept is None or kept <= 0:
        return
    rows = [
        one for one in reloads(evidence) if not one.differs and not one.between and _pause(one) is not None
    ]
    over = [one for one in rows if kept * 0.98 <= (_pause(one) or 0.0)]
    near = [one for one in over if (_pause(one) or 0.0) <= kept * _JUST_OVER]
    if len(near) >= _ENOUGH:
        yield _finding(evidence, near, kept)
    elif not rows:
        yield from _by_client(evidence, kept)


def _pause(one: Again) -> float | None:
    return one.idle_s if one.idle_s is not None else one.gap_s


def _finding(evidence: Evidence, rows: Sequence[Again], kept: float) -> Finding:
    pauses = ", ".join(spoken(_pause(one) or 0.0) for one in rows[:4])
    cost = sum(one.load.seconds or 0.0 for one in rows) / len(rows)
    paid = [request for one in rows[:2] if (request := payer(evidence, one.load))]
    return Finding(
        cause="keep_alive_unload_reload",
        title="Each request comes just after the model was unloaded",
        severity=Severity.WARNING,
        confidence=0.8 if len(rows) > _ENOUGH else 0.7,
        evidence=(*(one.load.entry.quote() for one in rows[:3]), *(one.entry.quote() for one in paid[:1])),
        why=f"{len(rows)} times the model was loaded anew with the same options after pauses of {pauses}; "
        f"it is kept for "
        f"{spoken(kept)}" + (f", and a load takes {spoken(cost)}." if cost else "."),
        ruled_out=(
            RuledOut(
                cause="model_reload_thrash",
                why="The options are the same each time, and no other model came between.",
            ),
        ),
        remedy=REMEDY,
        about=short(rows[-1].load.model),
    )


def _by_client(evidence: Evidence, kept: float) -> Iterator[Finding]:
    """The client's own times, where Ollama's log shows that a model was unloaded."""
    unloaded = evidence.hits(harmless.NOT_BACK, EXPIRED)
    if not unloaded:
        return
    for source in {hit.entry.source for hit in evidence.search(_CLOCK, "client_error", "commands")}:
        hits = [
            hit for hit in evidence.search(_CLOCK, "client_error", "commands") if hit.entry.source == source
        ]
        gaps = [(_second(later) - _second(one)) % _DAY_S for one, later in pairwise(hits)]
        near = [gap for gap in gaps if kept * 0.98 <= gap <= kept * 1.2]
        if len(near) < _ENOUGH:
            continue
        yield Finding(
            cause="keep_alive_unload_reload",
            title="Each request comes just after the model was unloaded",
            severity=Severity.WARNING,
            confidence=0.75,
            evidence=(*quotes(hits, 3), *quotes(unloaded, 1)),
            why=f"The requests are {', '.join(spoken(gap) for gap in near[:3])} apart; a model is kept for "
            f"{spoken(kept)}, "
            "and the log shows that it was unloaded between them.",
            ruled_out=(
                RuledOut(
                    cause="vram_not_recovered",
                    why="That line only follows from an unload; the unload is what costs the time.",
                ),
            ),
            remedy=REMEDY,
        )
        return


def _second(hit: Hit) -> int:
    return int(hit["h"]) * 3600 + int(hit["m"]) * 60 + int(hit["s"])


RULE = Rule(
    slug="keep_alive_unload_reload",
    title="The model is unloaded just before the next request",
    area="model",
    meaning="Ollama unloads a model that was idle for OLLAMA_KEEP_ALIVE (five minutes by default). Requests "
    "that come a "
    "little later each pay a whole load; a job every five minutes is the usual case.",
    signature=(
        "loads of one model with the same options, a little more than OLLAMA_KEEP_ALIVE apart",
        "load_duration of seconds in the answers, now and again",
    ),
    certain="`ollama ps` is empty before a slow request; with a longer keep_alive the slowness is gone.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_reload_thrash", how="The options differ, or another model was loaded between."
        ),
        LookAlike(
            cause="vram_not_recovered", how="The wait for memory after an unload, at most five seconds."
        ),
    ),
    signs=(EXPIRED,),
    explains=("vram_not_recovered",),
    check=check,
)
