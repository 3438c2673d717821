"""More requests wait for a load than Ollama lets wait."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.sign import Sign

REFUSED = Sign(r"maximum pending requests exceeded|server busy, please try again")

REMEDY = Remedy(
    text="Let fewer requests come at once; only then let more of them wait.",
    commands=(
        Command(
            text="In OpenWebUI: RAG_EMBEDDING_BATCH_SIZE=32 and RAG_EMBEDDING_CONCURRENT_REQUESTS=2",
            safe=False,
            note="OpenWebUI sends every chunk of a document at once by default",
        ),
        Command(text="Set OLLAMA_MAX_QUEUE=2048 for the service and restart it", safe=False),
    ),
    verify="Send the same work again: no 503 comes back.",
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A refusal in so many words."""
    hits = evidence.hits(REFUSED)
    if not hits:
        return
    yield Finding(
        cause="queue_full",
        title="Ollama refuses requests: too many wait already",
        severity=Severity.ERROR,
        confidence=0.95,
        evidence=tuple(hit.quote() for hit in hits[:3]),
        why=f"Ollama answered {evidence.count(REFUSED)} times that no more requests may wait (status 503).",
        remedy=REMEDY,
    )


RULE = Rule(
    slug="queue_full",
    title="The queue of waiting requests is full",
    area="service",
    meaning="More requests wait for a model to be loaded than OLLAMA_MAX_QUEUE allows (512 by default).",
    signature=("503 server busy, please try again.  maximum pending requests exceeded",),
    certain="The answer's text names the queue. The server's own log holds only the status 503.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_reload_thrash", how="Every request loads another model; the queue fills behind it."
        ),
    ),
    signs=(REFUSED,),
    check=check,
)
