"""ComfyUI is not reached."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.frontend.calls import comfyui_calls, is_own_loopback
from narthex.doctor.rules.service.places import container, quotes, started_later
from narthex.doctor.rules.service.steps import compose_setting, look
from narthex.doctor.signs import openwebui


def check(evidence: Evidence) -> Iterator[Finding]:
    """Readings of this machine; else calls to it that reached nobody."""
    rows = [row for row in evidence.all_readings("comfyui.answers") if row.value is not None]
    if rows:
        if not any(row.value for row in rows):
            yield Finding(
                cause="comfyui_unreachable",
                title="ComfyUI does not answer",
                severity=Severity.ERROR,
                confidence=0.85,
                evidence=tuple(evidence.quote_reading(row) for row in rows[:3]),
                why=f"Nothing answers at {', '.join(row.about for row in rows)}.",
                remedy=_remedy(evidence, ""),
                about=rows[0].about,
            )
        return
    calls = [call for call in comfyui_calls(evidence) if not started_later(evidence, call.entry)]
    sockets = evidence.hits(openwebui.IMAGE_SOCKET)
    if not calls and not sockets:
        return
    host = calls[-1].host if calls else ""
    words = "OpenWebUI could not open its connection to ComfyUI"
    if calls:
        words = f"Nobody was reached at {calls[-1].place}"
    if calls and is_own_loopback(calls[-1]):
        words += "; inside a container that is the container itself"
    elif calls and calls[-1].unknown_name:
        words += ": the name is not known there"
    yield Finding(
        cause="comfyui_unreachable",
        title="ComfyUI is not reached",
        severity=Severity.ERROR,
        confidence=0.85 if calls else 0.7,
        evidence=quotes(*(call.entry for call in calls[-2:]), *sockets[:2], most=3),
        why=words + ".",
        ruled_out=(RuledOut(cause="comfyui_job_failed", why="the workflow never came to ComfyUI"),),
        remedy=_remedy(evidence, host),
        about=calls[-1].place if calls else "",
    )


def _remedy(evidence: Evidence, host: str) -> Remedy:
    ui = container(evidence, "openwebui") or "open-webui"
    comfy = container(evidence, "comfyui")
    name = comfy or ("host.docker.internal" if host in ("", "localhost", "127.0.0.1") else host)
    return Remedy(
        text="Start ComfyUI, and give OpenWebUI the address under which it reaches it from where it runs. "
        "ComfyUI listens on 127.0.0.1 only unless it is started with --listen ADDRESS; it has no "
        "password, so give it the address of the Docker bridge, not all addresses.",
        commands=(
            Command(text="ss -ltn 'sport = :8188'", safe=True),
            Command(
                text="python main.py --listen 172.17.0.1 --port 8188",
                safe=False,
                note="reached by containers",
            ),
            compose_setting(f"COMFYUI_BASE_URL=http://{name}:8188", ui),
        ),
        verify="ComfyUI's figures come back from inside OpenWebUI's container.",
        verify_commands=(look(f"http://{name}:8188/system_stats", ui, live=evidence.live),),
    )


REMEDY = Remedy(
    text="Start ComfyUI, and give OpenWebUI the address under which it reaches it from inside its container.",
    commands=(
        Command(text="ss -ltn 'sport = :8188'", safe=True),
        Command(
            text="python main.py --listen 172.17.0.1 --port 8188", safe=False, note="reached by containers"
        ),
        compose_setting("COMFYUI_BASE_URL=http://host.docker.internal:8188", "open-webui"),
    ),
    verify="ComfyUI's figures come back from inside OpenWebUI's container.",
    verify_commands=(
        Command(
            text="docker exec open-webui curl -sS http://host.docker.internal:8188/system_stats", safe=True
        ),
    ),
)

RULE = Rule(
    slug="comfyui_unreachable",
    title="ComfyUI is not reached",
    area="frontend",
    meaning="ComfyUI is not started, listens on 127.0.0.1 only while it is asked from a container, or "
    "OpenWebUI has a wrong address of it.",
    signature=(
        "Cannot connect to host comfyui:8188 ssl:default [Connection refused]",
        "Failed to connect to WebSocket server: [Errno 111] Connection refused",
    ),
    certain="«curl http://127.0.0.1:8188/system_stats» on its machine, and the same from inside "
    "OpenWebUI's container.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="comfyui_job_failed", how="There ComfyUI's log tells of the job."),
        LookAlike(cause="port_in_use", how="ComfyUI could not start because its port is taken."),
    ),
    signs=(),
    readings=("comfyui.answers",),
    check=check,
)
