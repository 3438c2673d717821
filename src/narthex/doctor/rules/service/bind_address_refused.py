"""A server can't start: the address that it shall listen on is not this machine's, or not allowed."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes, started_later
from narthex.doctor.rules.service.steps import settings
from narthex.doctor.sign import Sign

REFUSED = Sign(
    r"listen tcp[46]?:? (?P<address>\S*?):?(?P<port>\d*): "
    r"(?:bind: (?P<why>permission denied|cannot assign requested address|can't assign requested address"
    r"|The requested address is not valid in its context)|(?P<lookup>lookup \S+: .*|address \S+: .*))",
    words=["listen tcp"],
)
PYTHON = Sign(
    r"error while attempting to bind on address \('(?P<address>[^']*)', (?P<port>\d+)[^)]*\): "
    r"(?P<why>cannot assign requested address)",
    words=["attempting to bind"],
)
REMEDY = Remedy(
    text="Let it listen on an address that this machine has: 127.0.0.1 for programs of this machine, the "
    "address of the Docker bridge for containers.",
    commands=(
        Command(text="ip -brief address", safe=True, note="the addresses that this machine has"),
        *settings("OLLAMA_HOST=127.0.0.1:11434"),
    ),
    verify="The log tells «Listening on», and the server answers.",
    verify_commands=(Command(text="curl http://127.0.0.1:11434/api/version", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The address and the reason, as the system gave them."""
    hits = evidence.hits(REFUSED, PYTHON)
    if not hits:
        return
    hit = hits[0]
    groups = hit.match.groupdict()
    address, port = str(groups.get("address") or ""), str(groups.get("port") or "")
    denied = "permission denied" in hit.entry.plain.lower()
    over = started_later(evidence, hits[-1].entry)
    where = f"{address}:{port}".strip(":") or "the address"
    reason = (
        f"port {port} is one that only root may open (below 1024), or a security module forbids it"
        if denied
        else f"no network card of this machine or container has {where}"
    )
    yield Finding(
        cause="bind_address_refused",
        title=f"The server may not listen on {where}",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.9,
        evidence=quotes(*hits, most=2),
        why=f"The server ended when it wanted to listen: {reason}."
        + (" A later start worked, so this is over." if over else ""),
        ruled_out=(RuledOut(cause="port_in_use", why="the system names another reason than a taken port"),),
        remedy=REMEDY,
        about=where,
    )


RULE = Rule(
    slug="bind_address_refused",
    title="The address to listen on is wrong",
    area="service",
    meaning="OLLAMA_HOST (or --host, --listen) names an address that this machine or container does not "
    "have, or a port that an ordinary user may not open. The server ends at once.",
    signature=(
        "Error: listen tcp 192.168.1.50:11434: bind: cannot assign requested address",
        "Error: listen tcp 127.0.0.1:80: bind: permission denied",
    ),
    certain="«ip -brief address» does not list the address. OLLAMA_HOST=http://name alone means port 80.",
    remedy=REMEDY,
    look_alikes=(LookAlike(cause="port_in_use", how="There the address is right and somebody else has it."),),
    signs=(REFUSED, PYTHON),
    explains=("service_unit_misconfig", "ollama_unreachable", "owui_cannot_reach_ollama"),
    check=check,
)
