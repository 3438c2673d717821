"""OpenWebUI gives up too early: its own time limit cuts answers and loads."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.sign import Sign
from narthex.doctor.signs import openwebui

SET = Sign(r"AIOHTTP_CLIENT_TIMEOUT[\"']?\s?[=:]\s?[\"']?(?P<seconds>\d+)", words=["aiohttp_client_timeout"])
LOW_S = 600  # a big model on a slow disk loads that long
SYMPTOMS = (
    openwebui.SERVER_CONNECTION_ERROR,
    openwebui.SUBMITTING_FAILED,
    openwebui.TIMEOUT_ERROR,
    openwebui.EMPTY_REASON,
)
REMEDY = Remedy(
    text="Leave AIOHTTP_CLIENT_TIMEOUT unset: it is a limit for the whole answer. To notice a dead "
    "backend, limit the pause between two pieces instead.",
    commands=(
        Command(text="Take AIOHTTP_CLIENT_TIMEOUT out of the environment of open-webui", safe=False),
        Command(text="AIOHTTP_CLIENT_STREAM_IDLE_TIMEOUT=300", safe=False, note="instead, in newer versions"),
        Command(text="docker compose up -d open-webui", safe=False, note="OpenWebUI starts anew"),
    ),
    verify="An answer that takes longer than the old limit comes whole.",
    verify_commands=(
        Command(
            text="docker exec open-webui printenv AIOHTTP_CLIENT_TIMEOUT", safe=True, note="prints nothing"
        ),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The limit as it is set, with or without its symptoms; symptoms alone are a suspicion."""
    env = evidence.value("openwebui.env")
    limit = str(env.get("AIOHTTP_CLIENT_TIMEOUT") or "") if isinstance(env, dict) else ""
    shown = evidence.last(SET)
    symptoms = evidence.hits(*SYMPTOMS)
    if limit.isdecimal() and 0 < int(limit) < LOW_S:
        row = evidence.reading("openwebui.env")
        quoted = (evidence.quote_reading(row),) if row else ()
        yield _finding(int(limit), (*quoted, *quotes(*symptoms, most=2)), symptoms, live=True)
    elif shown and 0 < int(shown["seconds"]) < LOW_S and symptoms:
        yield _finding(int(shown["seconds"]), quotes(shown, *symptoms[:2]), symptoms, live=False)
    elif not limit and not shown and _cut(evidence):
        yield _suspicion(evidence)


def _finding(seconds: int, quoted: tuple[Quote, ...], symptoms: list[Hit], *, live: bool) -> Finding:
    return Finding(
        cause="owui_timeout",
        title=f"OpenWebUI gives up after {seconds} seconds",
        severity=Severity.ERROR if symptoms else Severity.WARNING,
        confidence=0.85 if live and symptoms else 0.6,
        evidence=quoted,
        why=f"AIOHTTP_CLIENT_TIMEOUT={seconds} ends every answer that takes longer, also one that is being "
        "written and one that waits for its model to load.",
        ruled_out=(RuledOut(cause="runner_crash_bug", why="the limit is OpenWebUI's own"),),
        remedy=REMEDY,
        about=f"{seconds} s",
    )


def _cut(evidence: Evidence) -> bool:
    """An answer that was cut off: a timeout of aiohttp or the empty reason in OpenWebUI's own log."""
    timeouts = evidence.hits(openwebui.TIMEOUT_ERROR, kinds=("openwebui_log",))
    return bool(evidence.hits(openwebui.EMPTY_REASON) or evidence.has(openwebui.SUBMITTING_FAILED)) or bool(
        timeouts
    )


def _suspicion(evidence: Evidence) -> Finding:
    hits = evidence.hits(*SYMPTOMS)
    return Finding(
        cause="owui_timeout",
        title="OpenWebUI may give up too early",
        severity=Severity.ERROR,
        confidence=0.4,
        evidence=quotes(*hits, most=3),
        why="An answer was cut off and no reason is told: so OpenWebUI tells of its own time limit "
        "(AIOHTTP_CLIENT_TIMEOUT; 300 seconds in versions before 0.4).",
        remedy=REMEDY,
    )


RULE = Rule(
    slug="owui_timeout",
    title="OpenWebUI gives up too early",
    area="frontend",
    meaning="AIOHTTP_CLIENT_TIMEOUT limits the whole answer, the load of the model included. Unset there "
    "is no limit; set low, long answers stop in the middle and cold starts fail.",
    signature=(
        "Open WebUI: Server Connection Error",
        "Error submitting message",
        "Error processing chat payload: (and nothing after it)",
    ),
    certain="Every failure comes after the same number of seconds, and that is the number of the setting.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="client_timeout_generation", how="The same seen from Ollama: any client or gateway."),
        LookAlike(cause="client_timeout_aborts_load", how="The same while the model loads."),
        LookAlike(cause="owui_cannot_reach_ollama", how="There it fails at once."),
    ),
    signs=(SET,),
    readings=("openwebui.env",),
    check=check,
)
