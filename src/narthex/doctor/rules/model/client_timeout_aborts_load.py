"""The client hung up while its model was being loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import (
    good_later,
    load_of,
    loaded_later,
    near,
    quotes,
    short,
    spoken,
    times,
)
from narthex.doctor.signs import ollama
from narthex.doctor.story import Load, Request, requests

LEFT = 499

REMEDY = Remedy(
    text="Give the client more time than a load takes, or load the model before the first question and keep "
    "it loaded.",
    commands=(
        Command(text='ollama run MODEL ""', safe=True, note="loads it, and waits as long as that takes"),
        Command(
            text="Raise the client's timeout: OpenWebUI AIOHTTP_CLIENT_TIMEOUT, nginx proxy_read_timeout, "
            "Python ollama.Client(timeout=600)",
            safe=False,
        ),
        Command(
            text="Set OLLAMA_KEEP_ALIVE=1h for the service and restart it",
            safe=False,
            note="the model stays loaded between questions; its memory stays taken, too",
        ),
    ),
    verify="The first request after an unload is answered with 200; no 499 comes.",
    verify_commands=(
        Command(
            text="ollama ps", safe=True, argv=("ollama", "ps"), note="the model is listed once it is loaded"
        ),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """«client connection closed before …», «context canceled» at a load, or status 499."""
    hits = evidence.hits(ollama.CLIENT_LEFT_LOAD)
    gone = [one for one in requests(evidence) if one.status == LEFT and one.works]
    if not hits and not gone:
        return
    last = hits[-1].entry if hits else gone[-1].entry
    load = load_of(evidence, last)
    count = max(len(gone), _moments(hits))
    over = count == 1 and bool(
        loaded_later(evidence, last, load.model if load else "") or good_later(evidence, last)
    )
    yield Finding(
        cause="client_timeout_aborts_load",
        title="The client hung up while the model was loading",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.5 if over else 0.95 if hits else 0.8,
        evidence=_quotes(evidence, hits, gone),
        why=_why(load, gone, count),
        ruled_out=(
            RuledOut(
                cause="model_load_timeout",
                why="The load ended because its client was gone («context canceled», status 499), not at "
                "Ollama's "
                "own limit.",
            ),
            RuledOut(cause="runner_crash_bug", why="The runner was ended on purpose; it made no error."),
        ),
        remedy=REMEDY,
        about=short(load.model) if load else "",
    )


def _quotes(evidence: Evidence, hits: Sequence[Hit], gone: Sequence[Request]) -> tuple[Quote, ...]:
    beside = near(evidence, evidence.hits(ollama.LOAD_FAILED), hits[-1].entry) if hits else []
    return (*quotes([*hits, *beside], 2), *(one.entry.quote() for one in gone[:2]))


def _moments(hits: Sequence[Hit]) -> int:
    """Ollama tells each in two lines."""
    told = sum("client connection closed" in hit.entry.plain for hit in hits)
    return told or sum("waiting for" in hit.entry.plain for hit in hits)


def _why(load: Load | None, gone: Sequence[Request], count: int) -> str:
    text = f"A client closed its connection {times(count)} during the load of its model; Ollama then ends it"
    if gone:
        waits = sorted({spoken(one.seconds) for one in gone})
        text += f". It had waited {', '.join(waits[:4])} ({gone[-1].client}, {gone[-1].path})"
    elif load is not None and load.at is not None and load.last.at is not None and load.last.at > load.at:
        text += f". The load was {spoken(load.last.at - load.at)} old"
    if count > 1:
        text += ". Each try starts from nothing, so it never ends"
    return text + "."


RULE = Rule(
    slug="client_timeout_aborts_load",
    title="The client did not wait for the load",
    area="model",
    meaning="A load belongs to the request that asked for it. When that client, or a proxy before it, "
    "closes the "
    "connection, Ollama ends the load, and the next request begins again from nothing.",
    signature=(
        "client connection closed before server finished loading, aborting load",
        "timed out waiting for llama runner to start: context canceled",
        "[GIN] … | 499 | 30.0s | … POST /api/chat",
    ),
    certain="The 499's duration is the client's or proxy's limit; `ollama run` of the same model, which "
    "waits, works.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_load_timeout",
            how="«timed out waiting …» without «context canceled», after OLLAMA_LOAD_TIMEOUT: the server "
            "gave up.",
        ),
        LookAlike(
            cause="client_timeout_generation", how="The model was loaded; the client left during the answer."
        ),
        LookAlike(cause="healthy", how="A person pressed Ctrl-C once; the next request works."),
    ),
    signs=(),
    explains=("owui_timeout",),
    check=check,
)
