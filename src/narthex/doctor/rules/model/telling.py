"""What the rules about runner and model share: what is near, what is over, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Severity
from narthex.doctor.story import Load, Request, loads, requests, starts

NEAR_LINES = 400  # a Go program that dies prints all its goroutines
NEAR_S = 20.0
MANY_GOOD = 5  # requests that went well after a failure: then it was an event, not a state

UPDATE = (
    Command(
        text="ollama -v",
        safe=True,
        argv=("ollama", "-v"),
        note="client and server may differ: it prints both versions then",
    ),
    Command(
        text="curl -fsSL https://ollama.com/install.sh | sh",
        safe=False,
        root=True,
        note="an Ollama installed as a service; the models stay, running requests end",
    ),
    Command(
        text="docker pull ollama/ollama, then create the container anew with the same volume",
        safe=False,
        note="an Ollama in a container: `docker compose pull && docker compose up -d` does both",
    ),
)


def near(evidence: Evidence, hits: Iterable[Hit], entry: Entry, after: int = 60) -> list[Hit]:
    """Those that belong to the same moment as ``entry``: by their times where both have one, else by lines.
    Hits in other sources without times count: short extracts are of one event."""
    return [hit for hit in hits if _together(evidence, hit.entry, entry, after)]


def _together(evidence: Evidence, one: Entry, entry: Entry, after: int) -> bool:
    if one.at is not None and entry.at is not None:
        return abs(one.at - entry.at) <= NEAR_S
    if one.source != entry.source:
        return _lines(evidence, one.source) < NEAR_LINES
    return -NEAR_LINES <= one.line - entry.line <= after


def _lines(evidence: Evidence, name: str) -> int:
    return next((source.lines for source in evidence.sources if source.name == name), 0)


def quotes(hits: Iterable[Hit], most: int = 3) -> tuple[Quote, ...]:
    """The first lines of these, each text once."""
    seen: dict[str, Quote] = {}
    for hit in hits:
        seen.setdefault(hit.entry.plain, hit.quote())
    return tuple(seen.values())[:most]


def is_later(one: Entry, other: Entry) -> bool:
    """Whether ``one`` was written after ``other``, as far as that can be told."""
    if one.source == other.source:
        return one.line > other.line
    return one.at is not None and other.at is not None and one.at > other.at


def loaded_later(evidence: Evidence, entry: Entry, model: str = "") -> Load | None:
    """A load that went well after that line; of that model where it is known."""
    good = (load for load in loads(evidence) if load.end == "ready" and is_later(load.last, entry))
    return next((load for load in good if not model or not load.model or load.model == model), None)


def good_later(evidence: Evidence, entry: Entry, paths: Sequence[str] = ()) -> list[Request]:
    """Requests for a model's work that went well after that line; on these paths where some are given."""
    return [
        one
        for one in requests(evidence)
        if one.works and one.status == 200 and (not paths or one.path in paths) and is_later(one.entry, entry)
    ]


def is_event(evidence: Evidence, entry: Entry, times: int, paths: Sequence[str] = ()) -> bool:
    """Whether it happened once, and much went well since."""
    return times == 1 and len(good_later(evidence, entry, paths)) >= MANY_GOOD


def is_past(evidence: Evidence, entry: Entry) -> bool:
    """Whether the server was started anew after that line, and a model was loaded and answered since."""
    since = next((start.entry for start in starts(evidence) if is_later(start.entry, entry)), None)
    if since is None or not good_later(evidence, since):
        return False
    ended = [load.end for load in loads(evidence) if load.end and is_later(load.last, since)]
    return ended[-1:] == ["ready"]


def told_as_past(evidence: Evidence, entry: Entry, finding: Finding, model: str = "") -> Finding:
    """The finding, whose last line is ``entry``; as harmless where that model was loaded well later, or, of
    no model in particular, where :func:`is_past`."""
    if not (loaded_later(evidence, entry, model) if model else is_past(evidence, entry)):
        return finding
    since = "the same model was loaded well" if model else "the server was started anew, and a model answered"
    return msgspec.structs.replace(
        finding,
        severity=Severity.INFO,
        confidence=min(finding.confidence, 0.5),
        why=f"{finding.why} That is past: later {since}.",
    )


def load_of(evidence: Evidence, entry: Entry) -> Load | None:
    """The load to which a line belongs: the last one that begins before it ends there."""
    rows = [
        load
        for load in loads(evidence)
        if load.source == entry.source and load.entry.line <= entry.line <= max(load.last.line, entry.line)
    ]
    return rows[-1] if rows else None


def version(evidence: Evidence) -> str:
    """Of the last start that tells one; ""."""
    return next((start.version for start in reversed(starts(evidence)) if start.version), "")


def spoken(seconds: float) -> str:
    """«1.3 s», «5 min», «1 h 12 min»."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def times(count: int) -> str:
    """«once», «twice», «7 times»."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def short(model: str) -> str:
    """A blob's name as people compare it: «sha256-a5fd3b62230a…»."""
    return f"{model[:19]}…" if model.startswith("sha256-") and len(model) > 20 else model


def count_in_log(evidence: Evidence, pattern: str) -> Command:
    """How often a line came lately, where Ollama's log is: by its container's name, else its unit."""
    names = [
        row.about for row in evidence.all_readings("container") if (row.value or {}).get("role") == "ollama"
    ]
    if names or evidence.has_kind("docker_log"):
        source = f"docker logs --since 30m {names[0] if names else 'ollama'} 2>&1"
    else:
        source = "journalctl -u ollama --since -30min"
    return Command(
        text=f"{source} | grep -cE '{pattern}'", safe=True, note="should be 0, or no more than before"
    )
