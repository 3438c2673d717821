"""A pull fails because the registry's certificate is not trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import container, is_local, quotes
from narthex.doctor.rules.service.pulling import reached_later, url_host
from narthex.doctor.sign import Sign

REFUSED = Sign(
    r"x509: (?P<why>[^\"]+)|tls: failed to verify certificate|certificate signed by unknown authority"
    r"|CERTIFICATE_VERIFY_FAILED|SSL certificate problem: (?P<curl>.+)"
    r"|tls: (?P<tls>first record does not look like a TLS handshake|handshake failure|internal error"
    r"|bad certificate)"
    r"|(?P<plain>server gave HTTP response to HTTPS client)",
    words=[
        "x509: ",
        "failed to verify certificate",
        "signed by unknown authority",
        "certificate_verify_failed",
        "ssl certificate problem",
        "tls: first record",
        "tls: handshake failure",
        "tls: internal error",
        "tls: bad certificate",
        "gave http response to https",
    ],
)
_DATE = re.compile(r"expired or is not yet valid|certificate has expired|not yet valid", re.IGNORECASE)
_NAME = re.compile(r"certificate is valid for (?P<names>.+), not (?P<host>\S+)|doesn't contain any IP SANs")
_PROXY = re.compile(r"first record does not look like|HTTP response to HTTPS|proxyconnect", re.IGNORECASE)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A certificate that is refused, of a host of the internet."""
    hits = [hit for hit in evidence.hits(REFUSED) if not _nearby(evidence, hit)]
    if not hits:
        return
    text = " ".join(hit.entry.plain for hit in hits)
    over = reached_later(evidence, hits[-1].entry)
    host = next((found for hit in hits if (found := _host(evidence, hit))), "the registry")
    reason, text_of_fix, commands = _reason(evidence, text)
    yield Finding(
        cause="pull_tls_failure",
        title=f"The certificate of {host} is not trusted",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=0.95 if host != "the registry" or "pull" in text.lower() else 0.9,
        evidence=quotes(*hits, most=2),
        why=reason
        + (f" The registry was reached later (line {over.line}), so this is over." if over else ""),
        ruled_out=(
            RuledOut(cause="pull_dns_failure", why="the name was resolved: a certificate came back"),
            RuledOut(cause="pull_interrupted", why="it fails each time at once, not somewhere on the way"),
        ),
        remedy=Remedy(
            text=text_of_fix,
            commands=commands,
            verify="The pull starts.",
            verify_commands=REMEDY.verify_commands,
        ),
        about=host,
    )


def _host(evidence: Evidence, hit: Hit) -> str:
    """Of the line, or of a line right above it where the message is wrapped."""
    lines = [hit.entry, *reversed(evidence.around(hit.entry, before=2, after=0)[:-1])]
    return next((found for entry in lines if (found := url_host(entry.plain))), "")


def _nearby(evidence: Evidence, hit: Hit) -> bool:
    host = _host(evidence, hit)
    return bool(host) and is_local(host)


def _reason(evidence: Evidence, text: str) -> tuple[str, str, tuple[Command, ...]]:
    if _DATE.search(text):
        return (
            "The certificate is outside its dates: almost always the clock of this machine is wrong.",
            "Set the clock.",
            (
                Command(text="timedatectl", safe=True),
                Command(text="sudo timedatectl set-ntp true", safe=False, root=True),
            ),
        )
    if found := _NAME.search(text):
        names = f" (it is one for {found['names']})" if found["names"] else ""
        return (
            f"The machine that answered is not the one that was meant{names}: an entry in /etc/hosts, a "
            "name server or a proxy sends the name elsewhere.",
            "Take the stale entry out, or let the name server answer truly.",
            (
                Command(text="getent hosts registry.ollama.ai", safe=True),
                Command(text="grep -n ollama /etc/hosts", safe=True),
            ),
        )
    if _PROXY.search(text):
        return (
            "Something answered without TLS where TLS was spoken: a proxy that is written with https:// "
            "and speaks http, or a page of a network that wants a log-in first.",
            "Write the proxy with http:// in HTTPS_PROXY; that is how it is reached, not what goes through "
            "it.",
            (
                Command(text="systemctl show ollama -p Environment", safe=True),
                Command(
                    text="sudo systemctl edit ollama   # [Service]  "
                    'Environment="HTTPS_PROXY=http://proxy:3128"',
                    safe=False,
                    root=True,
                ),
            ),
        )
    name = container(evidence, "ollama") or "ollama"
    return (
        "The certificate is signed by an authority that the place where Ollama runs does not know: a "
        "company's gateway or a virus scanner opens the connection and signs it anew.",
        "Give the company's root certificate to the place where Ollama runs: the image has only the public "
        "ones.",
        (
            Command(
                text="openssl s_client -connect registry.ollama.ai:443 -servername registry.ollama.ai "
                "</dev/null | openssl x509 -noout -issuer",
                safe=True,
                note="who signs it here",
            ),
            Command(
                text="Dockerfile: FROM ollama/ollama  COPY company-ca.crt /usr/local/share/ca-certificates/  "
                f"RUN update-ca-certificates;  then start {name} from that image",
                safe=False,
                note="in a container",
            ),
            Command(
                text="sudo cp company-ca.crt /usr/local/share/ca-certificates/ && sudo "
                "update-ca-certificates && sudo systemctl restart ollama",
                safe=False,
                root=True,
                note="on the host; Fedora and RHEL: /etc/pki/ca-trust/source/anchors and update-ca-trust",
            ),
        ),
    )


REMEDY = Remedy(
    text="Give the company's root certificate to the place where Ollama runs. «--insecure» does not help "
    "here.",
    commands=(
        Command(
            text="Dockerfile: FROM ollama/ollama  COPY company-ca.crt /usr/local/share/ca-certificates/  "
            "RUN update-ca-certificates",
            safe=False,
        ),
        Command(text="timedatectl", safe=True, note="where the message speaks of dates"),
    ),
    verify="The pull starts.",
    verify_commands=(
        Command(text="curl -sSI https://registry.ollama.ai/v2/", safe=True, note="from where Ollama runs"),
    ),
)

RULE = Rule(
    slug="pull_tls_failure",
    title="The registry's certificate is not trusted",
    area="service",
    meaning="The connection to the registry is opened on the way by a gateway or a virus scanner, whose "
    "certificate Ollama does not know; or the clock is wrong; or the name leads to another machine.",
    signature=(
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "x509: certificate has expired or is not yet valid: current time … is before …",
        "tls: first record does not look like a TLS handshake",
    ),
    certain="«openssl s_client -connect registry.ollama.ai:443» shows another issuer than a public one.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="pull_interrupted",
            how="«TLS handshake timeout» is a slow or blocked line, no bad certificate.",
        ),
        LookAlike(cause="proxy_intercepts_local", how="There the proxy catches calls on this machine."),
    ),
    signs=(REFUSED,),
    explains=("pull_interrupted",),
    check=check,
)
