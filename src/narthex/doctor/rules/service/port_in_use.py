"""A server can't start: somebody else listens on its port."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service import listening
from narthex.doctor.rules.service.places import container, quotes, started_later
from narthex.doctor.sign import Sign

# Go's words hold the address; the reason behind it is in the language of the system.
GO = Sign(
    r"listen tcp[46]? (?P<address>\S*):(?P<port>\d+): bind: "
    r"(?!permission denied|cannot assign|.*can't assign|.*not valid in its context)(?P<why>.*)",
    words=["listen tcp"],
)
DOCKER = Sign(
    r"Bind for (?P<address>\S+):(?P<port>\d+) failed: port is already allocated|port is already allocated"
    r"|ports are not available: exposing port TCP (?P<other>\S+):(?P<other_port>\d+)"
    r"|failed to bind (?:host )?port (?:for )?(?P<third>\S+):(?P<third_port>\d+)[:/]",
    words=["already allocated", "ports are not available", "failed to bind"],
)
LLAMA = Sign(
    r"couldn't bind (?:HTTP server|to server) socket(?:, | ?: ?)hostname(?:: |=)(?P<address>[^,\s]+),? "
    r"port(?:: |=)(?P<port>\d+)",
    words=["couldn't bind"],
)
PYTHON = Sign(
    r"error while attempting to bind on address \('(?P<address>[^']*)', (?P<port>\d+)[^)]*\): "
    r"(?!.*cannot assign)|Port (?P<said_port>\d+) is (?:already )?in use",
    words=["attempting to bind", "in use"],
)
ERRNO = Sign(
    r"(?:Errno 98|Errno 48|WinError 10048)\b|EADDRINUSE(?:.*?:(?P<port>\d+))?",
    words=["errno 98", "errno 48", "winerror 10048", "eaddrinuse"],
)
ANY = Sign(
    r"address already in use|Only one usage of each socket address",
    words=["already in use", "only one usage"],
)
SIGNS = (GO, DOCKER, LLAMA, PYTHON, ERRNO, ANY)
DEFAULTS = {11434: "Ollama", 8080: "OpenWebUI or llama-server", 3000: "OpenWebUI", 8188: "ComfyUI"}

FREE = Remedy(
    text="Look who listens on the port. If it is the same service, use the one that runs and start no "
    "second one; else stop the other, or give one of the two another port.",
    commands=(
        Command(text="sudo ss -ltnp 'sport = :11434'", safe=True, root=True, note="root, to see whose it is"),
        Command(text="docker ps --filter publish=11434", safe=True),
        Command(
            text="sudo systemctl disable --now ollama",
            safe=False,
            root=True,
            note="where the container is to serve and the service on the host is one too many",
        ),
        Command(text="OLLAMA_HOST=127.0.0.1:11435 ollama serve", safe=True, note="another port"),
    ),
    verify="Exactly one process listens on the port, and it is the one that is meant.",
    verify_commands=(Command(text="ss -ltn 'sport = :11434'", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The port, and who holds it where a table shows that."""
    hits = evidence.hits(*SIGNS)
    if not hits:
        return
    port = next((found for hit in hits if (found := _port(hit)) is not None), None)
    holders = listening.listeners_on(evidence, port) if port else []
    over = started_later(evidence, hits[-1].entry)
    reserved = any("forbidden" in hit.entry.plain.lower() for hit in hits)
    known = port is not None and evidence.has(GO, DOCKER, LLAMA, PYTHON)
    count = len(hits)
    yield Finding(
        cause="port_in_use",
        title=f"Port {port} is taken already" if port else "The port of a server is taken already",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95 if known else 0.85,
        evidence=(*quotes(*hits, most=2), *(row.quote(evidence) for row in holders[:2])),
        why=_why(port, holders, count, over, reserved),
        ruled_out=(
            RuledOut(
                cause="ollama_unreachable",
                why="the server is not down of itself: it ended because it could not have its port",
            ),
        ),
        remedy=_remedy(evidence, port, reserved),
        about=str(port or ""),
    )


def _port(hit: Hit) -> int | None:
    groups = hit.match.groupdict()
    text = next((value for name, value in groups.items() if name.endswith("port") and value), None)
    return int(text) if text else None


def _why(
    port: int | None,
    holders: Sequence[listening.Listener],
    count: int,
    over: Hit | None,
    reserved: bool,
) -> str:
    times = "once" if count == 1 else f"{count} times"
    words = f"A server tried {times} to listen on {f'port {port}' if port else 'its port'} and was refused"
    if reserved:
        words += (
            "; Windows says that the port is kept back (a port exclusion range), nobody need listen on it"
        )
    if holders:
        words += f". It is held by {holders[0].who}"
    elif port in DEFAULTS:
        words += f". It is the usual port of {DEFAULTS[port]}: most often a first instance runs already"
    if over:
        words += f". A later line tells of a start that worked (line {over.entry.line}), so this is over"
    return words + "."


def _remedy(evidence: Evidence, port: int | None, reserved: bool) -> Remedy:
    if reserved:
        return Remedy(
            text="Take a port outside the ranges that Windows keeps back, or free the range.",
            commands=(
                Command(text="netsh interface ipv4 show excludedportrange protocol=tcp", safe=True),
                Command(text="net stop winnat && net start winnat", safe=False, root=True),
                Command(text="set OLLAMA_HOST=127.0.0.1:11500 && ollama serve", safe=True),
            ),
            verify="The server tells that it listens.",
            verify_commands=(Command(text=f"curl http://127.0.0.1:{port or 11434}/api/version", safe=True),),
        )
    if port in (None, 11434):
        return FREE
    name = container(evidence, "openwebui") or "open-webui"
    commands = [
        Command(
            text=f"sudo ss -ltnp 'sport = :{port}'", safe=True, root=True, note="root, to see whose it is"
        ),
        Command(text=f"docker ps --filter publish={port}", safe=True),
    ]
    if port in (3000, 8080):
        commands.append(
            Command(
                text=f"docker run … -p 127.0.0.1:3001:8080 --name {name} …", safe=False, note="another port"
            )
        )
    else:
        commands.append(Command(text=f"Start it with --port {port + 1}", safe=True, note="another port"))
    return Remedy(
        text=FREE.text,
        commands=tuple(commands),
        verify=FREE.verify,
        verify_commands=(Command(text=f"ss -ltn 'sport = :{port}'", safe=True),),
    )


RULE = Rule(
    slug="port_in_use",
    title="The port is taken already",
    area="service",
    meaning="Two programs want the same port. The second one ends at once. Very often both are Ollama: the "
    "service that the installer set up, and an «ollama serve» by hand, the desktop app or a container.",
    signature=(
        "Error: listen tcp 127.0.0.1:11434: bind: address already in use",
        "bind: Only one usage of each socket address (protocol/network address/port) is normally permitted.",
        "Bind for 0.0.0.0:11434 failed: port is already allocated",
        "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
        "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8080): address already in use",
    ),
    certain="«ss -ltnp» names the process that holds the port. «docker ps» names the container, where the "
    "process is docker-proxy.",
    remedy=FREE,
    look_alikes=(
        LookAlike(
            cause="bind_address_refused",
            how="The address is wrong, not taken: «cannot assign requested address», or «permission denied».",
        ),
        LookAlike(
            cause="service_unit_misconfig",
            how="The restart counter climbs in both; here the server's own last line names the port.",
        ),
    ),
    signs=(*SIGNS, listening.ROW),
    readings=(),
    explains=(
        "service_unit_misconfig",
        "ollama_unreachable",
        "owui_cannot_reach_ollama",
        "comfyui_unreachable",
    ),
    check=check,
)
