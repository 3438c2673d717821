"""OpenWebUI asks for Ollama where it is not: a wrong address, most often from inside a container."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.frontend.calls import (
    NOT_RESOLVED,
    REFUSED,
    Call,
    is_own_loopback,
    ollama_calls,
    over_since,
)
from narthex.doctor.rules.service.listening import listeners_on
from narthex.doctor.rules.service.places import container, host_of, is_loopback, quotes
from narthex.doctor.rules.service.steps import compose_setting, look, settings, unit_setting
from narthex.doctor.sign import Sign
from narthex.doctor.signs.ollama import LISTENING

GATEWAY = "host.docker.internal"
NO_CONNECTION = Sign(
    r"WebUI could not connect to (?:the )?Ollama|Server connection failed|Ollama: (?:Cannot"
    r"|Could not) connect",
    words=["could not connect to", "server connection failed", "ollama: cannot", "ollama: could not"],
)
_BRIDGE = re.compile(r"^(?:172\.(?:1[6-9]|2\d|3[01])\.|192\.168\.65\.|10\.0\.2\.2$)")


def check(evidence: Evidence) -> Iterator[Finding]:
    """What the readings say of each configured URL; else the calls that reached nobody."""
    rows = evidence.all_readings("openwebui.backend")
    dead = [row for row in rows if isinstance(row.value, dict) and row.value.get("reachable") is False]
    if rows and dead and len(dead) == len(rows):
        yield _of_readings(evidence, dead)
        return
    if rows:
        return  # some answer: another rule tells of the dead ones
    # a program of this machine that asks this machine is right to: then Ollama is down
    calls = [
        call
        for call in ollama_calls(evidence)
        if not is_own_loopback(call) or _is_ui(call) or _boxed(evidence, call)
    ]
    if calls:
        yield _of_calls(evidence, calls)


def _of_calls(evidence: Evidence, calls: Sequence[Call]) -> Finding:
    call = calls[-1]
    over = over_since(evidence, call)
    ui = any(_is_ui(one) for one in calls)
    reason, confidence = _reason(evidence, call)
    hint = evidence.first(NO_CONNECTION)
    bound = _bound_to_loopback(evidence)
    return Finding(
        cause="owui_cannot_reach_ollama",
        title=f"{'OpenWebUI' if ui else 'The client'} does not reach Ollama at {call.place}",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=confidence,
        evidence=(*quotes(*(one.entry for one in calls[-2:]), hint, most=3), *bound[:1]),
        why=reason + (f" A chat was answered later (line {over.line}), so this is over." if over else ""),
        ruled_out=(
            RuledOut(
                cause="proxy_intercepts_local",
                why="nobody answered; a proxy would have sent a page",
            ),
            RuledOut(
                cause="client_timeout_generation",
                why="the connection itself failed, before any question was sent",
            ),
        ),
        remedy=_remedy(evidence, call.host, call.port or 11434, unknown=call.unknown_name),
        about=call.place,
    )


def _is_ui(call: Call) -> bool:
    return (
        call.entry.kind == "openwebui_log" or "open_webui" in call.entry.plain or "ssl:" in call.entry.plain
    )


def _reason(evidence: Evidence, call: Call) -> tuple[str, float]:
    """Why nobody is there, and how sure that is."""
    if call.unknown_name:
        return _unknown_name(call), 0.9
    if is_own_loopback(call):
        said = (
            f"{call.host} is the place that asks itself: inside a container that is the container, where no "
            "Ollama listens on this port."
        )
        return said, 0.7 if _boxed(evidence, call) else 0.6
    if call.host == GATEWAY or _BRIDGE.match(call.host):
        return _from_container(evidence, call)
    if call.silent:
        said = (
            f"Nobody answered at {call.place}: that machine is off or asleep, its address has changed, or a "
            "firewall stands between."
        )
        return said, 0.65
    return f"Nothing listens at {call.place}: another port or address, or Ollama is not started there.", 0.65


def _unknown_name(call: Call) -> str:
    if call.host == GATEWAY:
        return (
            f"The name {GATEWAY} is not known there: Docker Desktop makes it by itself, Docker on Linux "
            "only with --add-host, Kubernetes not at all."
        )
    return (
        f"The name {call.host} is not known there: names of services hold only within one Docker network or "
        "namespace, and as they are written in the compose file."
    )


def _from_container(evidence: Evidence, call: Call) -> tuple[str, float]:
    """The host was asked at the address that containers use."""
    if _bound_to_loopback(evidence):
        said = (
            f"Nothing listens at {call.place}: Ollama listens on 127.0.0.1 only, which containers don't "
            "reach."
        )
        return said, 0.9
    if call.silent:
        return f"Nobody answered at {call.place}: a firewall of the host drops what containers send.", 0.7
    said = (
        f"Nothing listens at {call.place}. The usual reason: Ollama listens on 127.0.0.1, and containers "
        "come from elsewhere."
    )
    return said, 0.75


def _boxed(evidence: Evidence, call: Call) -> bool:
    """Whether the caller runs in a container, as far as the lines show that."""
    if call.entry.kind == "docker_log" or call.entry.stream.startswith(("open-webui", "openwebui", "pod/")):
        return True
    return bool(container(evidence, "openwebui")) or bool(
        evidence.search(r"docker (?:run|exec|logs|compose)", "commands")
    )


def _bound_to_loopback(evidence: Evidence) -> list[Quote]:
    """The lines that show that Ollama listens on loopback only."""
    starts = evidence.hits(LISTENING)
    if starts and is_loopback(starts[-1]["address"]):
        return [starts[-1].quote()]
    rows = [
        row
        for row in listeners_on(evidence, 11434)
        if row.addresses and all(map(is_loopback, row.addresses)) and "docker" not in row.process
    ]
    return [row.quote(evidence) for row in rows]


def _of_readings(evidence: Evidence, dead: Sequence[Reading]) -> Finding:
    row = dead[0]
    host = host_of(row.about)
    inside = bool(row.value.get("from_inside"))
    answers = [one for one in evidence.all_readings("ollama.answers") if one.value is True]
    bound = _bound_to_loopback(evidence)
    words = f"From {'inside its container' if inside else 'here'} nobody answers at {row.about}"
    words += f" ({row.value.get('error')})" if row.value.get("error") else ""
    words += f", while Ollama answers at {answers[0].about}" if answers else ""
    if bound and inside and not is_loopback(host):
        words += "; Ollama listens on 127.0.0.1 only, which containers don't reach"
    if inside and is_loopback(host):
        words += "; inside a container localhost is the container"
    return Finding(
        cause="owui_cannot_reach_ollama",
        title="OpenWebUI does not reach Ollama",
        severity=Severity.ERROR,
        confidence=0.9 if answers else 0.75,
        evidence=(
            *(evidence.quote_reading(one) for one in (*dead[:2], *answers[:1])),
            *bound[:1],
        ),
        why=words + ".",
        ruled_out=(RuledOut(cause="ollama_unreachable", why="Ollama itself answers on this machine"),)
        if answers
        else (),
        remedy=_remedy(evidence, host, 11434, unknown="name" in str(row.value.get("error")).lower()),
        about=row.about,
    )


def _remedy(evidence: Evidence, host: str, port: int, *, unknown: bool) -> Remedy:
    ui = container(evidence, "openwebui") or "open-webui"
    ollama = container(evidence, "ollama")
    commands: list[Command] = []
    if ollama or (unknown and host != GATEWAY):
        name = ollama or "ollama"
        commands += [
            compose_setting(f"OLLAMA_BASE_URL=http://{name}:{port}", ui),
            Command(
                text=f"docker network connect NETWORK-OF-{name} {ui}",
                safe=False,
                note="both have to be in one network: docker network ls, docker inspect",
            ),
        ]
    if not ollama:
        commands += [
            Command(
                text=f"docker run … --add-host={GATEWAY}:host-gateway -e "
                f"OLLAMA_BASE_URL=http://{GATEWAY}:{port} … ghcr.io/open-webui/open-webui:main",
                safe=False,
                note=f'compose: extra_hosts: - "{GATEWAY}:host-gateway"',
            ),
            unit_setting("OLLAMA_HOST=172.17.0.1:11434"),
            Command(
                text="sudo ufw allow in on docker0 to any port 11434 proto tcp",
                safe=False,
                root=True,
                note="where a firewall drops it",
            ),
        ]
    return Remedy(
        text="Give OpenWebUI the address under which it reaches Ollama from where it runs itself. Ollama "
        "in another container: the service's name, in one network. Ollama on the host: "
        "host.docker.internal, and Ollama has to listen on the Docker bridge (172.17.0.1), not on "
        "127.0.0.1 only. An address saved in Admin Settings › Connections wins over the variable. In "
        "Kubernetes: http://SERVICE.NAMESPACE.svc:11434.",
        commands=tuple(commands),
        verify="Ollama's version comes back from inside the container, and the models are listed.",
        verify_commands=(look(f"http://{ollama or GATEWAY}:{port}/api/version", ui, live=evidence.live),),
    )


REMEDY = Remedy(
    text="Give OpenWebUI the address under which it reaches Ollama from inside its container.",
    commands=(
        *settings("OLLAMA_BASE_URL=http://ollama:11434", "open-webui", in_container=True),
        Command(
            text=f"docker run … --add-host={GATEWAY}:host-gateway …", safe=False, note="Ollama on the host"
        ),
        unit_setting("OLLAMA_HOST=172.17.0.1:11434"),
    ),
    verify="Ollama's version comes back from inside the container.",
    verify_commands=(
        Command(text=f"docker exec open-webui curl -sS http://{GATEWAY}:11434/api/version", safe=True),
    ),
)

RULE = Rule(
    slug="owui_cannot_reach_ollama",
    title="OpenWebUI does not reach Ollama",
    area="frontend",
    meaning="Ollama runs, and OpenWebUI looks for it at an address that means something else, or nothing, "
    "from where OpenWebUI runs. Inside a container localhost is the container.",
    signature=(
        "Connection error: Cannot connect to host host.docker.internal:11434 ssl:default [Name or service "
        "not known]",
        "Cannot connect to host localhost:11434 ssl:default [Connect call failed ('127.0.0.1', 11434)]",
        "WebUI could not connect to Ollama",
    ),
    certain="«docker exec open-webui curl http://…:11434/api/version» fails with the address of its "
    "settings, and curl on Ollama's own machine works.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="ollama_unreachable", how="There curl on Ollama's own machine fails too."),
        LookAlike(
            cause="proxy_intercepts_local", how="There somebody answers: a page of HTML with a status."
        ),
        LookAlike(
            cause="owui_hang_unreachable_url", how="There one of several addresses is dead and the rest work."
        ),
    ),
    signs=(NO_CONNECTION, NOT_RESOLVED, REFUSED),
    readings=("openwebui.backend",),
    overrules=(),
    explains=("owui_500_while_ollama_ok",),
    check=check,
)
