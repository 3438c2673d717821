"""The client, or a gateway before it, hung up during the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model import rivals
from narthex.doctor.rules.model.model_load_timeout import GAVE_UP
from narthex.doctor.rules.model.telling import is_later, near, quotes, spoken, times
from narthex.doctor.sign import Sign
from narthex.doctor.signs import ollama
from narthex.doctor.story import Request, requests

CANCELED = Sign(
    r"aborting completion request due to client closing the connection"
    r"|post (?:predict|embedding).*context (?:canceled|deadline exceeded)"
    r"|127\.0\.0\.1:\d+/(?:completion|embedding|v1/\S+)\"?: context (?:canceled|deadline exceeded)"
)
WORDS = Sign(
    r"\bReadTimeout|ServerTimeoutError|Timeout on reading data|Read timed out|(?:request|operation|client"
    r"|upstream)[\w ]* timed out"
    r"|\bTimeoutError\b"
    r"|(?<!Socket)TimeoutException|SocketTimeoutException(?!: connect)|InterruptedIOException: timeout"
    r"|litellm\.Timeout|HeadersTimeoutError|UND_ERR_(?:HEADERS|BODY)_TIMEOUT|Client\.Timeout exceeded"
    r"|50[24] Gateway Time"
    r"|status(?: code)?:? 504|\b524\b.*(?:cloudflare|timeout)|: timed out\b|\btimeout of \d+ ?ms exceeded",
    words=[
        "timeout",
        "timed out",
        "gateway time",
        "status 504",
        "code 504",
        "code: 504",
        "status: 504",
        "cloudflare",
    ],
    kinds=("client_error", "openwebui_log", "commands", "docker_log"),
)
_NOT_THIS = re.compile(
    r"timed out waiting for|connect ?timeout|dial tcp|connecting to|discovery|registry|huggingface|/v2/"
    r"|TLS hand",
    re.IGNORECASE,
)
ROUND_S = (10, 15, 20, 30, 45, 60, 90, 100, 120, 150, 180, 240, 300, 360, 600, 900, 1200, 1800, 3600)
_LOOKED_AT = 100  # failed requests, the last ones; looking around each costs time
_SHORTEST_S = 25.0  # a shorter round time is chance, unless it comes again

REMEDY = Remedy(
    text="Raise the limit of whoever hung up: the client, or the proxy between. Streaming answers help, "
    "because their "
    "first words come early; a faster or smaller model helps, too.",
    commands=(
        Command(text="OpenWebUI: AIOHTTP_CLIENT_TIMEOUT=1800 (seconds; empty for no limit)", safe=False),
        Command(text="nginx: proxy_read_timeout 1800s; and proxy_buffering off;", safe=False, root=True),
        Command(text="Python: ollama.Client(timeout=1800), openai.OpenAI(timeout=1800)", safe=False),
        Command(
            text='time curl -s http://127.0.0.1:11434/api/generate -d \'{"model": "MODEL", "prompt": "…"}\'',
            safe=True,
            note="without proxy and client: how long the answer really takes",
        ),
    ),
    verify="An answer that takes longer than the old limit ends with 200.",
    verify_commands=(Command(text="docker logs --since 10m ollama 2>&1 | grep GIN", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Cancelled requests at a round duration; or the client's own words, with Ollama going on well."""
    lines = [hit for hit in evidence.hits(CANCELED) if not _other_cause(evidence, hit)]
    ended = [one for one in requests(evidence) if one.works and one.status in (500, 499)]
    cut = [one for one in ended[-_LOOKED_AT:] if _is_cut(evidence, one, lines)]
    words = [hit for hit in evidence.hits(WORDS) if not _NOT_THIS.search(hit.entry.plain)]
    confidence, severity = _judge(evidence, lines, cut, words)
    if confidence == 0.0:
        return
    yield Finding(
        cause="client_timeout_generation",
        title="The client hung up before the answer was finished",
        severity=severity,
        confidence=confidence,
        evidence=_quotes(lines, cut, words),
        why=_why(lines, cut, words),
        ruled_out=(
            RuledOut(
                cause="runner_crash_bug",
                why="The runner said nothing of a fault; the request ended from the client's side.",
            ),
            RuledOut(
                cause="client_timeout_aborts_load",
                why="No load was under way: it was broken off while the model worked.",
            ),
        ),
        remedy=REMEDY,
        about=_limit(cut),
    )


def _other_cause(evidence: Evidence, hit: Hit) -> bool:
    """Whether a load was broken off at that moment: then the load was the long part."""
    return bool(near(evidence, evidence.hits(ollama.CLIENT_LEFT_LOAD), hit.entry, after=5))


def _is_cut(evidence: Evidence, one: Request, lines: Sequence[Hit]) -> bool:
    """A failed request that lasted a round time, and no error of the runner beside it."""
    if _round(one.seconds) is None:
        return False
    beside = any(
        abs(hit.entry.line - one.entry.line) <= 4 and hit.entry.source == one.source for hit in lines
    )
    if beside:
        return True
    if near(evidence, evidence.hits(GAVE_UP), one.entry):
        return False
    signs = (rivals.MEMORY, rivals.GPU, rivals.KILLED, rivals.FILE, rivals.LIBRARY, rivals.ILLEGAL)
    return (
        one.seconds >= _SHORTEST_S and one.status == 500 and rivals.found(evidence, one.entry, *signs) is None
    )


def _round(seconds: float) -> int | None:
    """The round time that it lasted, with what the hanging-up takes."""
    return next((limit for limit in ROUND_S if -0.05 <= seconds - limit <= max(1.6, limit * 0.006)), None)


def _judge(
    evidence: Evidence, lines: Sequence[Hit], cut: Sequence[Request], words: Sequence[Hit]
) -> tuple[float, Severity]:
    if cut:
        again = max(Counter(_round(one.seconds) for one in cut).values()) >= 2
        return (0.9 if lines else 0.85 if again else 0.7), Severity.ERROR
    good = [one for one in requests(evidence) if one.works and one.status == 200]
    failed = [one for one in requests(evidence) if one.works and one.status == 500][-_LOOKED_AT:]
    if lines and failed and any(_beside(hit, one) for hit in lines for one in failed):
        later = any(is_later(one.entry, failed[-1].entry) for one in good)
        single = len(failed) == 1 and later and not words
        return (0.45, Severity.INFO) if single else (0.75, Severity.ERROR)
    slow = [one for one in failed if one.seconds >= _SHORTEST_S and rivals.found(evidence, one.entry) is None]
    if words and (lines or slow or (good and not failed)):
        return (0.75 if lines or slow else 0.6), Severity.ERROR
    if len(lines) >= 3:
        return 0.6, Severity.WARNING
    if lines:
        return 0.4, Severity.INFO if good else Severity.WARNING
    return (
        (0.35, Severity.WARNING)
        if words and not evidence.has_kind("ollama_log", "docker_log")
        else (0.0, Severity.INFO)
    )


def _beside(hit: Hit, one: Request) -> bool:
    return hit.entry.source == one.source and abs(hit.entry.line - one.entry.line) <= 6


def _quotes(lines: Sequence[Hit], cut: Sequence[Request], words: Sequence[Hit]) -> tuple[Quote, ...]:
    return (*(one.entry.quote() for one in cut[:2]), *quotes(lines, 2), *quotes(words, 1))


def _limit(cut: Sequence[Request]) -> str:
    common = Counter(_round(one.seconds) for one in cut).most_common(1)
    return f"limit of {spoken(common[0][0])}" if common and common[0][0] else ""


def _why(lines: Sequence[Hit], cut: Sequence[Request], words: Sequence[Hit]) -> str:
    parts: list[str] = []
    if cut:
        who = Counter((one.client, one.path) for one in cut).most_common(1)[0][0]
        lasted = ", ".join(dict.fromkeys(spoken(one.seconds) for one in cut[:4]))
        number = "one request" if len(cut) == 1 else f"{len(cut)} requests"
        parts.append(f"{number} failed after a round time ({lasted}; {who[0]} on {who[1]})")
    if lines:
        parts.append(f"Ollama noted {times(len(lines))} that the client had closed the connection")
    if words:
        parts.append("the client itself speaks of a timeout")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. Ollama has no limit of its own for an answer."


RULE = Rule(
    slug="client_timeout_generation",
    title="The client did not wait for the answer",
    area="model",
    meaning="Ollama works as long as it takes. A client, a library or a proxy with a limit of one, two or "
    "five minutes "
    "closes the connection; the log then shows a 500 of just that length.",
    signature=(
        "[GIN] … | 500 | 1m0s | … POST /api/chat  (or 2m0s, 5m0s)",
        "aborting completion request due to client closing the connection",
        'post predict error="… context canceled"',
    ),
    certain="The failed requests all last the same round time; the same question by curl, without a proxy, "
    "is answered.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="runner_crash_bug", how="«EOF» instead of «context canceled»: the runner died."),
        LookAlike(
            cause="client_timeout_aborts_load",
            how="«client connection closed before … finished loading», or 499.",
        ),
        LookAlike(cause="model_load_timeout", how="The text of the 500 says «timed out waiting … to start»."),
        LookAlike(cause="partial_offload_slow", how="Why it takes so long: layers on the CPU."),
    ),
    signs=(CANCELED, WORDS),
    explains=("owui_timeout", "owui_500_while_ollama_ok"),
    check=check,
)
