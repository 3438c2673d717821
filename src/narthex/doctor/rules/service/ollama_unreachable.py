"""Nothing answers where Ollama should be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit, Reading
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import container, later, quotes
from narthex.doctor.sign import Sign
from narthex.doctor.signs.ollama import ACCESS, LISTENING

_REFUSED = (
    r"connection refused|actively refused|ECONNREFUSED|Errno 111|Errno 61\b|WinError 10061|Errno 99"
    r"|Couldn't connect to server|Connection reset"
)
CLIENT = Sign(
    r"could not connect to (?:the )?ollama (?:app|server|instance)"
    r"|(?<!Warning: )could not connect to a running Ollama"
    r"|(?<!WebUI )(?:could ?n[o']t|cannot|can't|unable to) connect to (?:the )?ollama (?:at|on|server|api)\b"
    r"|Failed to connect to Ollama|ollama server not responding|ConnectError: .*ollama"
    r"|ollama (?:server )?is not running(?!\W+(?:starting|launching|trying))",
    words=[
        "connect to",
        "failed to connect to ollama",
        "ollama server not responding",
        "connecterror",
        "is not running",
    ],
)
RELAYED = Sign(  # LiteLLM and others name Ollama and not its address
    r"\bOllama(?:Exception| ?Error| ?models?)?\b ?[:-] (?:error: )?"
    r"(?:\[(?:Errno 111|Errno 61|WinError 10061)\]|All connection attempts failed|Connection refused)",
    words=["errno 111", "errno 61", "winerror 10061", "all connection attempts", "connection refused"],
)
WRAPPED = Sign(  # the end of a line that a terminal or a form has broken
    r"Failed to establish a new connection: \[(?:Errno 111|Errno 61|WinError 10061)\]",
    words=["a new connection"],
)
REFUSED = Sign(
    rf"(?:localhost|127\.0\.0\.1|\[?::1\]?|0\.0\.0\.0)'?,? ?(?:port ?=? ?|:)11434\b.*(?:{_REFUSED})"
    rf"|(?:{_REFUSED})\W+(?:\S+ )?\(?'?(?:localhost|127\.0\.0\.1|::1|0\.0\.0\.0)'?:?,? ?11434"
    rf"|dial tcp \S+:11434: connect(?:ex)?: .*(?:{_REFUSED}|can(?:'t|not) assign requested address)",
    words=["11434"],
)
WARNED = Sign(  # «ollama -v» without a server; it prints its own version and goes on
    r"^Warning: could not connect to a running Ollama instance", words=["to a running ollama"]
)
BARE = Sign(
    r"^(?:httpx\.ConnectError|httpcore\.ConnectError|ConnectionError|.*ollama.*ConnectionError): .*"
    r"(?:Connection refused|Failed to connect|Errno 111|Errno 61|Errno 99|actively refused)",
    words=["connecterror", "connectionerror"],
)
UNIT_DOWN = Sign(
    r"^Active: (?P<state>inactive \(dead\)|failed|activating \(auto-restart\)|deactivating)(?P<rest>.*)",
    words=["active: "],
)
UNIT_NAME = re.compile(r"(?P<unit>\S*ollama\S*\.service)")
STOPPED = Sign(
    r"(?:Stopped|Stopping) (?:ollama\.service|Ollama)(?: - Ollama)?(?: Service)?",
    words=["stopped ", "stopping "],
)
STARTED_UNIT = Sign(r"Started (?:ollama\.service|Ollama)", words=["started ollama"])
EXITED = Sign(
    r"\bExited \((?P<code>\d+)\) (?P<when>.+? ago)\b.*\b(?P<name>\S*ollama\S*)$", words=["exited ("]
)
ALIVE = Sign(
    r"^Ollama is running$|^\{\"version\": ?\"\d", words=["ollama is running", '{"version"'], first=5, last=20
)
_NOT_CLIENTS = ("openwebui_log", "host")
_NAMED = re.compile(r"no Ollama at \S+ \(")  # an address that somebody set, not the usual one
_HANGS = "the connection is accepted"
_UI = re.compile(r"open[-_]webui|open_webui|comfy", re.IGNORECASE)

REMEDY = Remedy(
    text="See whether it runs, read its last lines, and start it; where it runs and hangs, restart it.",
    commands=(
        Command(text="systemctl status ollama --no-pager", safe=True),
        Command(text="docker ps -a --filter ancestor=ollama/ollama", safe=True),
        Command(
            text="journalctl -u ollama -n 50 --no-pager",
            safe=True,
            note="in a container: docker logs --tail 50 ollama",
        ),
        Command(
            text="sudo systemctl restart ollama",
            safe=False,
            root=True,
            note="starts it too where it is stopped; in a container: docker restart ollama",
        ),
    ),
    verify="It answers with its version.",
    verify_commands=(Command(text="curl -sS http://127.0.0.1:11434/api/version", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Readings of this machine first; else what a client, systemd or Docker says of it."""
    if finding := _of_readings(evidence):
        yield finding
        return
    said = evidence.hits(CLIENT, REFUSED, BARE, RELAYED)
    said = said or [hit for hit in evidence.hits(WRAPPED) if _is_of_the_port(evidence, hit)]
    clients = [hit for hit in said if hit.entry.kind not in _NOT_CLIENTS]
    clients = [hit for hit in clients if not _UI.search(hit.entry.plain)]
    down = [hit for hit in evidence.hits(UNIT_DOWN) if _is_ollama(evidence, hit)]
    exited = [hit for hit in evidence.hits(EXITED) if not _UI.search(hit["name"])]
    stopped = _stopped(evidence)
    if not (clients or down or exited):
        yield from _of_warnings(evidence)
        return
    if clients and not (down or exited) and _answered_since(evidence, clients):
        return
    yield _of_texts(evidence, clients, down, exited, stopped)


def _of_readings(evidence: Evidence) -> Finding | None:
    rows = [row for row in evidence.all_readings("ollama.answers") if row.value is not None]
    if not rows or any(row.value for row in rows):
        return None
    boxes = [
        row
        for row in evidence.all_readings("container")
        if isinstance(row.value, dict) and row.value.get("role") == "ollama"
    ]
    ended = [row for row in boxes if row.value.get("state") in ("exited", "dead", "created", "restarting")]
    expected = _is_expected(evidence, rows, boxes)
    words = f"Nothing answers at {', '.join(row.about for row in rows)}"
    words += "; somebody listens there, so it hangs" if any(_HANGS in row.text for row in rows) else ""
    words += "" if expected else ", and nothing on this machine shows that an Ollama should be there"
    words += "".join(
        f"; the container {row.about} is {row.value.get('state')}{_code(row)}" for row in ended[:1]
    )
    return Finding(
        cause="ollama_unreachable",
        title="Ollama does not answer" if expected else "No Ollama runs here",
        severity=Severity.CRITICAL if expected else Severity.INFO,
        confidence=0.9 if expected else 0.6,
        evidence=tuple(evidence.quote_reading(row) for row in (*rows, *ended))[:3],
        why=words + ".",
        remedy=_remedy(evidence, ended[0].about if ended else ""),
        about=rows[0].about,
    )


def _is_expected(evidence: Evidence, rows: Sequence[Reading], boxes: Sequence[Reading]) -> bool:
    """Whether anything shows that an Ollama should be there, and not another one elsewhere."""
    backends = [
        row.value for row in evidence.all_readings("openwebui.backend") if isinstance(row.value, dict)
    ]
    if any(value.get("reachable") for value in backends):
        return any(_NAMED.search(row.text) for row in rows)
    return bool(
        boxes
        or backends
        or any(_NAMED.search(row.text) for row in rows)
        or evidence.has(CLIENT, REFUSED, LISTENING, STARTED_UNIT)
    )


def _of_warnings(evidence: Evidence) -> Iterator[Finding]:
    """Only «ollama -v» was asked: whether a server should have run is not said."""
    warned = [hit for hit in evidence.hits(WARNED) if hit.entry.kind in ("client_error", "commands")]
    if not warned or evidence.has(LISTENING, ACCESS, ALIVE):
        return
    yield Finding(
        cause="ollama_unreachable",
        title="No Ollama answered the client",
        severity=Severity.WARNING,
        confidence=0.45,
        evidence=quotes(*warned[-2:]),
        why="The client found no server at the address that it asks (OLLAMA_HOST of this shell, else "
        "127.0.0.1:11434): none runs, or it listens on another address.",
        remedy=_remedy(evidence, ""),
    )


def _code(row: Reading) -> str:
    code = row.value.get("exit_code")
    if row.value.get("oom_killed"):
        return ", ended by the kernel for memory"
    return f" with code {code}" if code else ""


def _is_ollama(evidence: Evidence, hit: Hit) -> bool:
    near = evidence.around(hit.entry, before=8, after=8)
    return any(UNIT_NAME.search(entry.plain) for entry in near)


def _is_of_the_port(evidence: Evidence, hit: Hit) -> bool:
    """Whether the broken line began with Ollama's usual port."""
    return any("11434" in entry.plain for entry in evidence.around(hit.entry, before=1, after=0))


def _stopped(evidence: Evidence) -> Hit | None:
    """systemd's stop, where no start follows in the same journal."""
    last = evidence.last(STOPPED)
    if last is None or later(evidence, last.entry, STARTED_UNIT, LISTENING):
        return None
    return last


def _answered_since(evidence: Evidence, clients: Sequence[Hit]) -> bool:
    """Whether the same source shows that it answered after the last refusal."""
    return later(evidence, clients[-1].entry, LISTENING, ACCESS, ALIVE) is not None


def _of_texts(
    evidence: Evidence,
    clients: Sequence[Hit],
    down: Sequence[Hit],
    exited: Sequence[Hit],
    stopped: Hit | None,
) -> Finding:
    words = []
    if down:
        state = down[-1]["state"]
        looping = "auto-restart" in state
        words.append(
            "systemd starts the service again and again: it ends each time, and its own log says why"
            if looping
            else f"systemd says that the service is {state}"
        )
    if exited:
        words.append(
            f"the container {exited[-1]['name']} ended with code {exited[-1]['code']} {exited[-1]['when']}"
        )
    if clients:
        words.append("a client was refused: nothing listens on the port")
    if stopped:
        words.append("its journal ends with a stop")
    text = "; ".join(words)
    return Finding(
        cause="ollama_unreachable",
        title="Ollama does not answer",
        severity=Severity.ERROR,
        confidence=0.8 if down or exited else 0.6,
        evidence=quotes(*clients[:2], *down[-1:], *exited[-1:], stopped),
        why=text[:1].upper() + text[1:] + ".",
        ruled_out=(
            RuledOut(
                cause="client_timeout_aborts_load",
                why="a refusal comes at once; a client that waits too long tells of a timeout",
            ),
        ),
        remedy=_remedy(evidence, exited[-1]["name"] if exited else ""),
    )


def _remedy(evidence: Evidence, name: str) -> Remedy:
    name = name or container(evidence, "ollama")
    if not name:
        return REMEDY
    return Remedy(
        text=REMEDY.text,
        commands=(
            Command(text=f"docker logs --tail 50 {name}", safe=True),
            Command(text=f"docker inspect -f '{{{{json .State}}}}' {name}", safe=True),
            Command(
                text=f"docker start {name}",
                safe=True,
                argv=("docker", "start", name) if evidence.live else (),
            ),
        ),
        verify=REMEDY.verify,
        verify_commands=REMEDY.verify_commands,
    )


RULE = Rule(
    slug="ollama_unreachable",
    title="Ollama does not answer",
    area="service",
    meaning="Nothing listens where clients look for Ollama: it is not started, it ended, it is just "
    "starting anew, or it listens on another port or address than the client asks.",
    signature=(
        "Error: could not connect to ollama app, is it running?",
        'Post "http://127.0.0.1:11434/api/chat": dial tcp 127.0.0.1:11434: connect: connection refused',
        "Active: inactive (dead)",
    ),
    certain="«curl http://127.0.0.1:11434/» on the machine where Ollama runs is refused.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="owui_cannot_reach_ollama",
            how="There it answers on its machine, and not from the container.",
        ),
        LookAlike(cause="port_in_use", how="It could not start: its log says that the port is taken."),
        LookAlike(cause="service_unit_misconfig", how="It could not start: systemd says why."),
        LookAlike(cause="client_timeout_generation", how="There it answers, only too late for the client."),
    ),
    signs=(CLIENT, REFUSED, BARE, RELAYED, WRAPPED, WARNED, ALIVE, UNIT_DOWN, STOPPED, STARTED_UNIT, EXITED),
    readings=("ollama.answers",),
    explains=("owui_cannot_reach_ollama", "owui_hang_unreachable_url"),
    check=check,
)
