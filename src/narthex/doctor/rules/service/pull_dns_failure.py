"""A pull fails because the name of the registry is not resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import container, quotes
from narthex.doctor.rules.service.pulling import is_download, reached_later
from narthex.doctor.sign import Sign

LOOKUP = Sign(
    r"\blookup (?P<name>[\w.-]+?)\.?(?: on (?P<resolver>\[?[\w.:%<>-]+\]?:\d+))?: "
    r"(?P<why>[^\"]+)",
    words=["lookup "],
)
OTHERS = Sign(
    r"Could not resolve host:? (?P<name>[\w.-]+)|Failed to resolve '(?P<other>[\w.-]+)'"
    r"|getaddrinfo (?:ENOTFOUND|EAI_AGAIN) (?P<node>[\w.-]+)",
    words=["could not resolve host", "failed to resolve", "getaddrinfo e"],
)
_RESOLVERS = (
    (r"127\.0\.0\.11$", "Docker's own resolver, which asks the host's", "docker"),
    (r"127\.0\.0\.5[34]$", "systemd-resolved of this machine", "resolved"),
    (r"100\.100\.100\.100$", "MagicDNS of Tailscale", "tailscale"),
    (r"10\.\d+\.0\.10$|fd00::a$", "the cluster's CoreDNS", "cluster"),
    (r"127\.|\[?::1", "a resolver on this machine (or in this container)", "resolved"),
    (r"192\.168\.|10\.|172\.(?:1[6-9]|2\d|3[01])\.", "the router or the company's server", "router"),
)
_FIXES = {
    "docker": "Give the container a resolver that works, or repair the host's.",
    "resolved": "Repair the host's resolver; a VPN that has ended often leaves a dead one behind.",
    "tailscale": "MagicDNS does not answer for the internet: give it a global name server, or leave it out.",
    "cluster": "CoreDNS can't resolve names of the internet, or a network policy forbids the pod to ask it.",
    "router": "That server does not know names of the internet (a company network wants a proxy: set "
    "HTTPS_PROXY for the server, not for the client), or it does not answer.",
    "": "The machine has no resolver that answers, or no network.",
}


def check(evidence: Evidence) -> Iterator[Finding]:
    """A lookup of a host of the internet that failed, and who was asked."""
    hits = [hit for hit in evidence.hits(LOOKUP, OTHERS) if is_download(_name(hit), _near(evidence, hit))]
    if not hits:
        return
    hit = next((one for one in hits if one.match.groupdict().get("resolver")), hits[0])
    groups = hit.match.groupdict()
    resolver = re.sub(r":\d+$", "", str(groups.get("resolver") or ""))
    kind, said = _resolver(resolver)
    over = reached_later(evidence, hits[-1].entry)
    reason = str(groups.get("why") or "not resolved")
    asked = f"{resolver}, {said}," if resolver else "the machine's resolver"
    yield Finding(
        cause="pull_dns_failure",
        title=f"The name {_name(hit)} is not resolved",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95 if "ollama" in _name(hit) or "cloudflare" in _name(hit) else 0.85,
        evidence=quotes(*hits, most=3),
        why=f"{asked} was asked for {_name(hit)} and answered «{reason}»: no connection was even tried."
        + (f" The registry was reached later (line {over.line}), so this is over." if over else ""),
        ruled_out=(
            RuledOut(cause="pull_tls_failure", why="it did not come to a certificate: there was no address"),
            RuledOut(cause="model_not_found", why="the registry was never asked for the name"),
        ),
        remedy=_remedy(evidence, kind),
        about=_name(hit),
    )


def _name(hit: Hit) -> str:
    groups = hit.match.groupdict()
    return next((str(groups[key]) for key in ("name", "other", "node") if groups.get(key)), "").rstrip(".")


def _near(evidence: Evidence, hit: Hit) -> str:
    """The line and those before it: a wrapped message has the word «pull» above."""
    return " ".join(entry.plain for entry in evidence.around(hit.entry, before=3, after=0))


def _resolver(address: str) -> tuple[str, str]:
    for pattern, said, kind in _RESOLVERS:
        if address and re.match(pattern, address):
            return kind, said
    return ("router", "a name server") if address else ("", "")


def _remedy(evidence: Evidence, kind: str) -> Remedy:
    name = container(evidence, "ollama") or "ollama"
    inside = (Command(text=f"docker exec {name} getent hosts registry.ollama.ai", safe=True),)
    steps: dict[str, tuple[Command, ...]] = {
        "docker": (
            *inside,
            Command(text="docker run --dns 1.1.1.1 … ollama/ollama   (compose: dns: [1.1.1.1])", safe=False),
            Command(
                text='/etc/docker/daemon.json: {"dns": ["1.1.1.1"]}, then sudo systemctl restart docker',
                safe=False,
                root=True,
                note="all containers start anew",
            ),
        ),
        "resolved": (
            Command(text="resolvectl status", safe=True),
            Command(text="sudo systemctl restart systemd-resolved", safe=False, root=True),
        ),
        "tailscale": (
            Command(text="tailscale dns status", safe=True),
            Command(text="sudo tailscale set --accept-dns=false", safe=False, root=True),
        ),
        "cluster": (
            Command(text="kubectl -n kube-system logs -l k8s-app=kube-dns --tail=50", safe=True),
            Command(text="kubectl get networkpolicy -A", safe=True),
        ),
    }
    general = (
        Command(text="getent hosts registry.ollama.ai", safe=True),
        Command(text="cat /etc/resolv.conf", safe=True),
    )
    return Remedy(
        text=_FIXES[kind] + " Look from where Ollama runs: a container has a resolver of its own.",
        commands=steps.get(kind, general),
        verify="The name resolves where Ollama runs, and the pull goes on.",
        verify_commands=(
            Command(text="getent hosts registry.ollama.ai", safe=True),
            *(inside if kind == "docker" else ()),
        ),
    )


REMEDY = Remedy(
    text="Let the place where Ollama runs (host, container, pod) resolve names of the internet.",
    commands=(
        Command(text="getent hosts registry.ollama.ai", safe=True),
        Command(text="docker exec ollama getent hosts registry.ollama.ai", safe=True),
        Command(text="docker run --dns 1.1.1.1 … ollama/ollama", safe=False),
    ),
    verify="The name resolves where Ollama runs, and the pull goes on.",
    verify_commands=(Command(text="docker exec ollama getent hosts registry.ollama.ai", safe=True),),
)

RULE = Rule(
    slug="pull_dns_failure",
    title="The registry's name is not resolved",
    area="service",
    meaning="Ollama asks for the address of registry.ollama.ai (or of its storage) and gets none. It is "
    "the server that asks, not the command line: a container asks another resolver than the host.",
    signature=(
        "dial tcp: lookup registry.ollama.ai on 127.0.0.11:53: server misbehaving",
        "dial tcp: lookup registry.ollama.ai: no such host",
        "lookup registry.ollama.ai on 8.8.8.8:53: read udp 172.17.0.2:48307->8.8.8.8:53: i/o timeout",
    ),
    certain="«getent hosts registry.ollama.ai» fails where the server runs. The address after «on» names "
    "who was asked.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="pull_interrupted", how="There an address is known («dial tcp 104.21.…:443: i/o timeout»)."
        ),
        LookAlike(
            cause="owui_cannot_reach_ollama",
            how="There the unknown name is a service nearby, not the registry.",
        ),
        LookAlike(
            cause="model_not_found",
            how="«pull model manifest: file does not exist» is the registry's answer.",
        ),
    ),
    signs=(LOOKUP, OTHERS),
    explains=("pull_interrupted",),
    check=check,
)
