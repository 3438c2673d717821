"""More requests wait for a load than Ollama lets wait."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.rules.service.steps import settings
from narthex.doctor.sign import Sign

REFUSED = Sign(r"maximum pending requests exceeded|server busy, please try again")
LOGGED = Sign(
    r"\[GIN\] [^|]*\| ?503 ?\| ?(?P<took>\S+) ?\| ?(?P<client>\S+) ?\| ?POST \"(?P<path>[^\"?]*)",
    words=["| 503 |"],
)
BATCH = (
    Command(
        text="OpenWebUI: RAG_EMBEDDING_BATCH_SIZE=32 and RAG_EMBEDDING_CONCURRENT_REQUESTS=2",
        safe=False,
        note="by default OpenWebUI sends every chunk of a document at once; later than the first start "
        "they are set in Admin Settings › Documents",
    ),
)
REMEDY = Remedy(
    text="Let fewer requests come at once; only then let more of them wait.",
    commands=(*BATCH, *settings("OLLAMA_MAX_QUEUE=2048")),
    verify="Send the same work again: no 503 comes back.",
    verify_commands=(Command(text="journalctl -u ollama --since -10min | grep -c '| 503 |'", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The answer in so many words, or the status in Ollama's log: nothing else there is a 503."""
    said, logged = evidence.hits(REFUSED), evidence.hits(LOGGED)
    if not said and not logged:
        return
    count = max(evidence.count(REFUSED), evidence.count(LOGGED))
    embeds = [hit for hit in logged if hit["path"].startswith(("/api/embed", "/v1/embed"))]
    from_documents = bool(embeds) or any("embed" in hit.entry.plain.lower() for hit in said)
    words = f"Ollama refused {count} request{'s' * (count != 1)} with status 503: no more may wait for a load"
    words += ". They are embeddings: a document's chunks were all sent at once" if from_documents else ""
    yield Finding(
        cause="queue_full",
        title="Ollama refuses requests: too many wait already",
        severity=Severity.ERROR,
        confidence=0.95 if said else 0.8,
        evidence=quotes(*said[:2], *logged[:2]),
        why=words + ".",
        ruled_out=(
            RuledOut(cause="ollama_unreachable", why="it answered, and at once"),
            *((_no_proxy(logged),) if logged else ()),
        ),
        remedy=REMEDY if from_documents else _without_documents(),
    )


def _no_proxy(logged: list[Hit]) -> RuledOut:
    return RuledOut(
        cause="proxy_intercepts_local",
        why=f"the 503 is in Ollama's own access log (line {logged[0].entry.line}): no proxy wrote it",
    )


def _without_documents() -> Remedy:
    return msgspec.structs.replace(
        REMEDY,
        commands=(
            Command(
                text="Let the client send fewer requests at once, and wait and try again at 503", safe=False
            ),
            *settings("OLLAMA_MAX_QUEUE=2048"),
        ),
    )


RULE = Rule(
    slug="queue_full",
    title="The queue of waiting requests is full",
    area="service",
    meaning="More requests wait for a model to be loaded than OLLAMA_MAX_QUEUE allows (512 by default). "
    "Requests to a model that is loaded don't count.",
    signature=(
        "503 server busy, please try again.  maximum pending requests exceeded",
        '[GIN] … | 503 | … | POST "/api/embed"',
    ),
    certain="The answer's text names the queue. The server's own log holds only the status 503, and Ollama "
    "has no other reason for it.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_reload_thrash", how="Every request loads another model; the queue fills behind it."
        ),
        LookAlike(
            cause="proxy_intercepts_local", how="A proxy's 503 is a page of HTML, and not in Ollama's log."
        ),
    ),
    signs=(REFUSED, LOGGED),
    explains=("embedding_failure",),
    check=check,
)
