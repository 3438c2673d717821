"""OpenWebUI shows a 500 that Ollama gave it: a symptom, whose cause is in Ollama's log."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor import story
from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.sign import Sign
from narthex.doctor.signs import openwebui

SHOWN = Sign(r"\b500: (?:Ollama|Open WebUI): (?P<what>.+)", words=["500: ollama", "500: open webui"])

REMEDY = Remedy(
    text="Read Ollama's own log of that second: the reason stands a few lines above its line «| 500 |». "
    "The command line works because it asks with other options: a smaller context, no tools, no "
    "pictures.",
    commands=(
        Command(text="journalctl -u ollama --since '10 min ago' --no-pager", safe=True),
        Command(text="docker logs --since 10m ollama", safe=True),
        Command(text="narthex doctor --logs ollama.log openwebui.log", safe=True),
    ),
    verify="The same question in OpenWebUI is answered.",
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Only a suspicion: the words say that Ollama failed, not why."""
    failed = [hit for hit in evidence.hits(openwebui.UPSTREAM_FAILED) if hit["status"].startswith("5")]
    hits = [*evidence.hits(openwebui.RELAYED_500, SHOWN), *failed]
    hits = [hit for hit in hits if not _says_why(hit)]
    if not hits:
        return
    logged = [one.entry for one in story.requests(evidence) if one.status == 500 and one.works]
    yield Finding(
        cause="owui_500_while_ollama_ok",
        title="OpenWebUI passes on a 500 of Ollama's",
        severity=Severity.ERROR,
        confidence=0.35,
        evidence=quotes(*hits[:2], *logged[:1]),
        why="Ollama was reached and answered with status 500; its reason is not in these lines"
        + (". Its access log has the same 500" if logged else "")
        + ".",
        ruled_out=(RuledOut(cause="owui_cannot_reach_ollama", why="Ollama answered"),),
        remedy=REMEDY,
    )


def _says_why(hit: Hit) -> bool:
    """A newer OpenWebUI hands on Ollama's own text, and other rules read that."""
    return bool(hit.match.groupdict().get("message"))


RULE = Rule(
    slug="owui_500_while_ollama_ok",
    title="OpenWebUI shows a 500, the command line works",
    area="frontend",
    meaning="OpenWebUI shows «500 Internal Server Error» of Ollama's. That is a symptom: Ollama failed "
    "with this very request. Its own log knows why: memory, a crashed runner, a client that went "
    "away.",
    signature=("Ollama: 500, message='Internal Server Error', url='http://ollama:11434/api/chat'",),
    certain="The lines right above «| 500 |» in Ollama's log tell the reason.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="vram_oom_on_load", how="The model does not fit with the context that OpenWebUI asks for."
        ),
        LookAlike(cause="runner_crash_bug", how="The runner died of this request."),
        LookAlike(
            cause="client_timeout_generation", how="The 500 comes after a round time: the client went away."
        ),
    ),
    signs=(SHOWN,),
    check=check,
)
