"""Requests for embeddings fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model import rivals
from narthex.doctor.rules.model.telling import MANY_GOOD, good_later, quotes, times
from narthex.doctor.sign import Sign
from narthex.doctor.story import Request, requests

PATHS = ("/api/embed", "/api/embeddings", "/v1/embeddings")
NOT_A_NUMBER = Sign(r"unsupported value: NaN|embeddings?\b.{0,60}\bNaN\b|NaN .{0,40}embedding", words=["nan"])
# Ollama and llama-server say this of texts for embeddings alone; Ollama's newer «the input length exceeds
# the context length» also of a prompt that must not be cut.
TOO_LONG_TEXT = Sign(
    r"input length exceeds maximum context length"
    r"|input (?:\(\d+ tokens\) )?is too large to process\. increase"
)
UNABLE = Sign(r"does not support embeddings?|embeddings? (?:endpoint )?(?:is|are) not (?:supported|enabled)")
TOO_LONG = Sign(
    r"input (?:\(\d+ tokens\) )?is too large to process"
    r"|(?:the )?input length exceeds (?:the )?(?:maximum )?context length"
)
FAILED = Sign(
    r"failed to (?:generate|get|create) (?:an )?embeddings?|error (?:generating|getting|creating) embeddings?"
    r"|embedding (?:generation|request|endpoint)? ?(?:failed|error)|(?:post|do) embedding(?: request)?:? "
    r"|llama_embedding:"
    r"|/api/embed\S*['\"]?[^|]{0,60}(?:\b50[01]\b|Internal Server Error)"
    r"|(?:\b50[01]\b|Internal Server Error)[^|]{0,120}/api/embed",
    words=["embedding", "/api/embed"],
)
_REFUSED = (
    "Ollama refuses them and says why only in its answer: most often the text is longer than the model's "
    "context, or an option is wrong"
)
_LOOKED_AT = 60  # failed requests, the last ones; looking around each costs time
BAD = frozenset({400, 500, 501})

REMEDY = Remedy(
    text="Read what Ollama's log says in that second. Use a model made for embeddings, and pieces of text "
    "that are "
    "shorter than its context.",
    commands=(
        Command(
            text='curl -s http://127.0.0.1:11434/api/embed -d \'{"model": "MODEL", "input": "hello"}\'',
            safe=True,
            note="a short text: does the model work at all, and what does the error say?",
        ),
        Command(
            text="ollama show MODEL",
            safe=True,
            note="capabilities must list embedding; shows the context length",
        ),
        Command(
            text="In OpenWebUI: Admin Settings, Documents: a smaller chunk size, an embedding model, "
            "RAG_EMBEDDING_BATCH_SIZE=16",
            safe=False,
        ),
    ),
    verify="The same text is answered with 200 on /api/embed.",
    verify_commands=(
        Command(
            text="curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:11434/api/embed "
            '-d \'{"model": "MODEL", "input": "hello"}\'',
            safe=True,
        ),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Words about embeddings, or failed requests for them whose reason is not another cause."""
    failed = [one for one in requests(evidence) if one.path in PATHS and one.status in BAD]
    told = _told(evidence, failed)
    # A text or an option that Ollama does not take is no failure of the model, and seldom logged: it counts
    # where it came again, and nothing but that.
    refused = (
        len(failed) > 1
        and all(one.status == 400 for one in failed)
        and not any(one.path in PATHS and one.status == 200 for one in requests(evidence))
    )
    silent = [
        one
        for one in failed[-_LOOKED_AT:]
        if (one.status != 400 or refused) and not _explained(evidence, one)
    ]
    if not told and not silent:
        return
    words, reason, confidence = _reason(told)
    if refused and not told:
        reason, confidence = _REFUSED, 0.55
    count = max(len(failed), 1)
    last = failed[-1].entry if failed else told[-1].entry
    event = count == 1 and len(good_later(evidence, last)) >= MANY_GOOD
    yield Finding(
        cause="embedding_failure",
        title=words,
        severity=Severity.INFO if event else Severity.ERROR,
        confidence=confidence if not event else min(confidence, 0.5),
        evidence=(*quotes(told, 2), *(one.entry.quote() for one in (silent or failed)[:2])),
        why=_why(failed, reason),
        ruled_out=_ruled_out(evidence, failed),
        remedy=REMEDY,
    )


def _told(evidence: Evidence, failed: Sequence[Request]) -> list[Hit]:
    """Lines that give the reason. A too long input is one only where embeddings are spoken of."""
    hits = evidence.hits(NOT_A_NUMBER, UNABLE, TOO_LONG_TEXT)
    if failed or evidence.has(FAILED):
        hits = [*hits, *evidence.hits(TOO_LONG)]
    loose = [hit for hit in evidence.hits(FAILED) if rivals.found(evidence, hit.entry) is None]
    return hits or loose


def _explained(evidence: Evidence, one: Request) -> bool:
    return rivals.found(evidence, one.entry) is not None


def _reason(told: Sequence[Hit]) -> tuple[str, str, float]:
    """Title, reason and confidence."""
    text = " ".join(hit.entry.plain for hit in told)
    if NOT_A_NUMBER.pattern.search(text):
        return (
            "The embedding model computes numbers that are none (NaN)",
            "the result held NaN: a known fault of some models with flash attention or half precision, or "
            "of odd input",
            0.9,
        )
    if UNABLE.pattern.search(text):
        return "The model can't make embeddings", "the model is made for chat and offers no embeddings", 0.9
    if TOO_LONG.pattern.search(text) or TOO_LONG_TEXT.pattern.search(text):
        return (
            "The text is too long for the embedding model",
            "a piece of text has more tokens than the model's context or batch holds",
            0.85,
        )
    if told:
        return "Embeddings fail", "the reason is not in these lines", 0.6
    return (
        "Requests for embeddings fail",
        "the access log tells no reason, and no other line of that moment does",
        0.6,
    )


def _why(failed: Sequence[Request], reason: str) -> str:
    if not failed:
        return f"{reason[0].upper()}{reason[1:]}."
    statuses = Counter(one.status for one in failed)
    told = ", ".join(f"{times(count)} {status}" for status, count in statuses.items())
    who = f"{failed[-1].path}, from {failed[-1].client}"
    return f"Requests for embeddings were answered {told} ({who}): {reason}."


def _ruled_out(evidence: Evidence, failed: Sequence[Request]) -> tuple[RuledOut, ...]:
    good = [one for one in requests(evidence) if one.works and one.status == 200 and one.path not in PATHS]
    rows = [
        RuledOut(
            cause="vram_oom_on_load", why="No line of that moment speaks of memory that could not be had."
        ),
    ]
    if good and failed:
        rows.append(
            RuledOut(cause="ollama_unreachable", why=f"Ollama answers: {len(good)} other requests went well.")
        )
    return tuple(rows)


RULE = Rule(
    slug="embedding_failure",
    title="Embeddings fail",
    area="model",
    meaning="The model that turns text into vectors (for documents and search) gives an error, while chat "
    "may work.",
    signature=(
        "[GIN] … | 500 | … POST /api/embed",
        "failed to encode response: json: unsupported value: NaN",
        "this model does not support embeddings",
        "the input length exceeds the context length; input is too large to process",
    ),
    certain="A curl with one short word tells the model's fault from the text's fault.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="model_not_found", how="The status is 404: the embedding model was never pulled."),
        LookAlike(cause="queue_full", how="The status is 503: too many pieces at once."),
        LookAlike(
            cause="client_timeout_generation",
            how="The 500 comes after a round time, with «context canceled».",
        ),
    ),
    signs=(NOT_A_NUMBER, UNABLE, TOO_LONG, TOO_LONG_TEXT, FAILED),
    check=check,
)
