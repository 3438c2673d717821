"""One dead address among several: OpenWebUI's pages wait for it."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.frontend.calls import ollama_calls
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.rules.service.steps import settings
from narthex.doctor.signs import openwebui

REMEDY = Remedy(
    text="Take the dead address out in Admin Settings › Connections (what is saved there wins over the "
    "variable), and let OpenWebUI wait less long for a list of models.",
    commands=(
        *settings("AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST=3", "open-webui"),
        Command(
            text="OLLAMA_BASE_URLS=http://ollama:11434 (only those that answer, with ; between them)",
            safe=False,
        ),
        Command(
            text="ENABLE_PERSISTENT_CONFIG=False",
            safe=False,
            note="so that the variables win over what was saved, where no page opens any more",
        ),
    ),
    verify="The page opens at once, and the log tells of no connection error.",
    verify_commands=(
        Command(text="docker exec open-webui curl -sS -m 3 http://ADDRESS:11434/api/version", safe=True),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Readings of every address; else lists that were not answered in time, beside chats that work."""
    rows = [row for row in evidence.all_readings("openwebui.backend") if isinstance(row.value, dict)]
    dead = [row for row in rows if row.value.get("reachable") is False]
    if dead and len(dead) < len(rows):
        yield Finding(
            cause="owui_hang_unreachable_url",
            title=f"OpenWebUI waits for {dead[0].about}",
            severity=Severity.WARNING,
            confidence=0.85,
            evidence=tuple(evidence.quote_reading(row) for row in dead[:3]),
            why=f"{len(dead)} of {len(rows)} addresses of OpenWebUI do not answer; each page that lists "
            "models waits for them, up to 10 seconds by default, for minutes in versions before 0.5.",
            ruled_out=(RuledOut(cause="owui_cannot_reach_ollama", why="another address answers"),),
            remedy=REMEDY,
            about=dead[0].about,
        )
        return
    if not rows:
        yield from _of_log(evidence)


def _of_log(evidence: Evidence) -> Iterator[Finding]:
    waited = evidence.hits(openwebui.LISTING_TIMED_OUT)
    silent = [call for call in ollama_calls(evidence) if call.silent]
    works = evidence.first(openwebui.ANSWERED)
    hosts = {call.place for call in silent}
    if waited:
        count = evidence.count(openwebui.LISTING_TIMED_OUT)
        yield Finding(
            cause="owui_hang_unreachable_url",
            title="OpenWebUI waits for a backend that does not answer in time",
            severity=Severity.WARNING,
            confidence=0.6,
            evidence=quotes(*waited[:2], works),
            why=f"{count} times the list of models did not come within the time that OpenWebUI waits (10 "
            "seconds by default): the log tells that as a connection error without a reason. The page "
            "stood still that long.",
            ruled_out=(
                RuledOut(
                    cause="owui_cannot_reach_ollama", why="a refused connection would have told its reason"
                ),
            ),
            remedy=REMEDY,
        )
    elif silent and works:
        yield Finding(
            cause="owui_hang_unreachable_url",
            title=f"OpenWebUI waits for {', '.join(sorted(hosts))}",
            severity=Severity.WARNING,
            confidence=0.6,
            evidence=quotes(*(call.entry for call in silent[:2]), works),
            why=f"Nobody answers at {', '.join(sorted(hosts))}, and chats are answered by another address: "
            "each list of models waits for the dead one.",
            ruled_out=(RuledOut(cause="owui_cannot_reach_ollama", why="chats are answered"),),
            remedy=REMEDY,
            about=", ".join(sorted(hosts)),
        )


RULE = Rule(
    slug="owui_hang_unreachable_url",
    title="A dead address makes OpenWebUI wait",
    area="frontend",
    meaning="Several backends are configured and one of them does not answer: a machine that sleeps, an "
    "address that is no more. Every page that lists models waits for it.",
    signature=(
        "Connection error: (and nothing after it)",
        "Cannot connect to host 192.168.1.20:11434 ssl:default [Connection timed out], beside chats that "
        "work",
    ),
    certain="curl to each address of Admin Settings › Connections, from inside the container: one of them "
    "waits.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="owui_cannot_reach_ollama", how="There no address works at all."),
        LookAlike(cause="model_reload_thrash", how="There the list comes at once, and the answers are slow."),
    ),
    signs=(),
    readings=("openwebui.backend",),
    check=check,
)
