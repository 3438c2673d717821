"""A service without any password is open to the network."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service import listening
from narthex.doctor.rules.service.places import is_everywhere, is_loopback, quotes
from narthex.doctor.rules.service.steps import unit_setting
from narthex.doctor.sign import Sign
from narthex.doctor.signs.comfyui import STARTED
from narthex.doctor.signs.ollama import LISTENING

PUBLISHED = Sign(
    r"(?P<host>0\.0\.0\.0|\[::\]|::):(?P<port>\d+)->(?P<inner>11434|8188|8080)/tcp",
    words=["->11434/", "->8188/", "->8080/"],
)
TUNNEL = Sign(
    r"\b(?:ngrok http|cloudflared tunnel .*--url|tailscale funnel)\b.*\b(?P<port>11434|8188)\b"
    r"|Forwarding (?P<public>https://\S+) -> http://localhost:(?P<other>11434|8188)",
    words=["ngrok http", "cloudflared tunnel", "tailscale funnel", "forwarding "],
)
LLAMA = Sign(
    r"server is listening on http://(?P<address>[^\s:]+|\[[^\]]+\]):(?P<port>\d+)",
    words=["server is listening on"],
)
SERVICES = {
    "ollama": "Ollama",
    "openwebui": "OpenWebUI",
    "comfyui": "ComfyUI",
    "llama_server": "llama-server",
}
_INNER = {11434: "ollama", 8188: "comfyui"}
_BRIDGE = re.compile(r"172\.(?:1[6-9]|2\d|3[01])\.\d+\.1$")  # Docker's own side of its networks


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A service that the network reaches."""

    service: str
    port: int
    address: str
    quote: Quote
    container: str = ""

    @property
    def place(self) -> str:
        """«Ollama on 0.0.0.0:11434»."""
        address = f"[{self.address}]" if ":" in self.address.strip("[]") else self.address
        return f"{SERVICES[self.service]} on {address}:{self.port}"


def check(evidence: Evidence) -> Iterator[Finding]:
    """On this machine what listens and what is published; from a log alone it is told and no more."""
    if found := list(dict.fromkeys([*_of_containers(evidence), *_of_listeners(evidence)])):
        yield _now(evidence, _distinct(found))
    elif tunnel := evidence.first(TUNNEL):
        yield _tunnel(tunnel)
    elif told := _of_logs(evidence):
        yield _told(told)


def _distinct(found: list[Open]) -> list[Open]:
    """One per service and port: a published port is also a listener of docker-proxy."""
    seen: dict[int, Open] = {}
    for one in found:
        seen.setdefault(one.port, one)
    return list(seen.values())


def _of_containers(evidence: Evidence) -> Iterator[Open]:
    for row in evidence.all_readings("container"):
        value = row.value if isinstance(row.value, dict) else {}
        if value.get("role") not in SERVICES or value.get("state") not in (None, "running"):
            continue
        for port in value.get("ports") or ():
            host = str(port.get("host_ip") or "")
            if port.get("host_port") and _is_public(host):
                yield Open(
                    service=str(value["role"]),
                    port=int(port["host_port"]),
                    address=host or "0.0.0.0",  # noqa: S104 (what Docker means by no address)
                    quote=evidence.quote_reading(row),
                    container=row.about,
                )


def _of_listeners(evidence: Evidence) -> Iterator[Open]:
    for row in listening.listeners(evidence):
        if isinstance(row.seen, Entry) or row.service not in SERVICES:
            continue
        public = [address for address in row.addresses if _is_public(address)]
        if public:
            yield Open(service=row.service, port=row.port, address=public[0], quote=row.quote(evidence))


def _is_public(address: str) -> bool:
    """More than this machine and its containers reach it."""
    bare = address.strip("[]")
    if is_everywhere(bare):
        return True
    if is_loopback(bare):
        return False
    return ":" in bare or (bare[:1].isdigit() and not _BRIDGE.match(bare)) or bare.startswith("<ip")


def _now(evidence: Evidence, found: list[Open]) -> Finding:
    env = evidence.value("openwebui.env") or {}
    no_login = str(env.get("WEBUI_AUTH", "")).lower() == "false"
    bare = [one for one in found if one.service != "openwebui" or no_login]
    names = ", ".join(one.place for one in (bare or found))
    words = (
        f"{names}: whoever reaches this machine over the network can use it, and it asks for no password. "
        "Whether a firewall stands before it can't be seen from here"
        if bare
        else f"{names}: the network reaches it. It asks for a log-in, so this is usual"
    )
    return Finding(
        cause="exposed_to_network",
        title=f"{' and '.join(dict.fromkeys(SERVICES[one.service] for one in (bare or found)))} "
        f"{'is' if len({one.service for one in (bare or found)}) == 1 else 'are'} open to the network",
        severity=Severity.WARNING if bare and evidence.live else Severity.INFO,
        confidence=0.9,
        evidence=tuple(one.quote for one in (bare or found))[:4],
        why=words + ".",
        remedy=_remedy(bare or found),
        about=names,
    )


def _remedy(found: list[Open]) -> Remedy:
    commands: list[Command] = []
    for one in found:
        if one.container:
            commands.append(
                Command(
                    text=f'compose.yaml, ports: - "127.0.0.1:{one.port}:{_inner(one)}"   '
                    f"(docker run: -p 127.0.0.1:{one.port}:{_inner(one)}), then docker compose up -d "
                    f"{one.container}",
                    safe=False,
                    note="other containers of the network reach it without any published port",
                )
            )
        elif one.service == "ollama":
            commands.append(unit_setting(f"OLLAMA_HOST=127.0.0.1:{one.port}"))
        else:
            option = "--listen" if one.service == "comfyui" else "--host"
            commands.append(
                Command(text=f"start {SERVICES[one.service]} with {option} 127.0.0.1", safe=False)
            )
    port = found[0].port
    commands.append(
        Command(
            text=f"ssh -N -L {port}:127.0.0.1:{port} user@this-machine",
            safe=True,
            note="so another machine reaches it without opening it to everybody",
        )
    )
    return Remedy(
        text="Publish it on loopback only, and let other machines come through an SSH tunnel, a VPN or a "
        "proxy that asks for a password. Containers that need Ollama on the host reach it on the "
        "Docker bridge: OLLAMA_HOST=172.17.0.1.",
        commands=tuple(commands),
        verify="Only loopback addresses are left.",
        verify_commands=(
            *(Command(text=f"ss -ltn 'sport = :{one.port}'", safe=True) for one in found[:4]),
            Command(text=f"From another machine: curl -m 5 http://ADDRESS:{port}/ is refused", safe=True),
        ),
    )


def _inner(one: Open) -> int:
    return {"ollama": 11434, "comfyui": 8188, "openwebui": 8080}.get(one.service, one.port)


def _tunnel(hit: Hit) -> Finding:
    groups = hit.match.groupdict()
    port = int(groups.get("port") or groups.get("other") or 11434)
    return Finding(
        cause="exposed_to_network",
        title=f"A tunnel opens {SERVICES[_INNER[port]]} to the internet",
        severity=Severity.WARNING,
        confidence=0.6,
        evidence=quotes(hit),
        why="The tunnel has a public address, and the service behind it asks for no password.",
        remedy=Remedy(
            text="Let the tunnel ask for a log-in, or use one that only your own machines reach.",
            commands=(
                Command(
                    text=f'ngrok http {port} --basic-auth "name:password" --host-header=localhost:{port}',
                    safe=False,
                ),
                Command(text=f"ssh -N -L {port}:127.0.0.1:{port} user@this-machine", safe=True),
            ),
            verify="The public address asks for a log-in.",
            verify_commands=(Command(text="curl -i https://THE-TUNNEL/api/version", safe=True),),
        ),
    )


def _of_logs(evidence: Evidence) -> list[Hit]:
    hits = [hit for hit in evidence.hits(LISTENING, LLAMA) if is_everywhere(hit["address"])]
    hits += evidence.hits(PUBLISHED)
    hits += [
        hit for hit in evidence.hits(STARTED) if re.match(r"http://(?:0\.0\.0\.0|\[?::\]?)[:/]", hit["url"])
    ]
    return hits


def _told(hits: list[Hit]) -> Finding:
    published = [hit for hit in hits if "inner" in hit.match.groupdict()]
    return Finding(
        cause="exposed_to_network",
        title="A service listens on all addresses",
        severity=Severity.INFO,
        confidence=0.6 if published else 0.4,
        evidence=quotes(*published[:2], *hits[:1]),
        why="It listens on all addresses of the machine and asks for no password. In a container that is "
        "normal: there the address counts under which its port is published. A text can't show who "
        "reaches it.",
        remedy=REMEDY,
    )


REMEDY = Remedy(
    text="Publish it on loopback only, and let other machines come through an SSH tunnel or a proxy that "
    "asks for a password.",
    commands=(
        Command(text="ss -ltn", safe=True, note="what listens where"),
        unit_setting("OLLAMA_HOST=127.0.0.1:11434"),
        Command(text='compose.yaml, ports: - "127.0.0.1:11434:11434"', safe=False),
        Command(text="ssh -N -L 11434:127.0.0.1:11434 user@this-machine", safe=True),
    ),
    verify="From another machine the port is refused.",
    verify_commands=(Command(text="ss -ltn 'sport = :11434'", safe=True),),
)

RULE = Rule(
    slug="exposed_to_network",
    title="A service is open to the network",
    area="service",
    meaning="Ollama, ComfyUI and llama-server have no log-in. Where they listen on 0.0.0.0 or [::], or a "
    "container publishes their port so, everybody who reaches the machine can use, pull and delete "
    "models or run workflows.",
    signature=(
        "Listening on [::]:11434   Listening on 0.0.0.0:11434",
        "0.0.0.0:11434->11434/tcp",
        "ngrok http 11434",
    ),
    certain="From another machine «curl http://ADDRESS:11434/api/tags» lists the models. Inside a "
    "container 0.0.0.0 is normal: what counts is the published address.",
    remedy=REMEDY,
    look_alikes=(LookAlike(cause="cors_origin_403", how="That stops browsers' pages, and nobody else."),),
    signs=(PUBLISHED, TUNNEL, LLAMA),
    readings=("listener", "container"),
    check=check,
)
