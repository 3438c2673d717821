"""An HTTP proxy of the environment catches calls between services of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit, Reading
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import container, host_of, is_local, is_loopback, quotes
from narthex.doctor.rules.service.steps import look, settings
from narthex.doctor.sign import Sign
from narthex.doctor.signs.openwebui import ANSWER_NOT_JSON
from narthex.doctor.story import requests

RAW = Sign(
    r"<ClientResponse\((?P<url>https?://[^)\s]+)\) \[(?P<status>40[37]|50[234])\b[^\]]*\]",
    words=["<clientresponse("],
)
# Ollama writes none of these for a model of this machine; clients tell them with the URL that they asked.
_LOCAL = r"https?://(?:localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0|host\.docker\.internal|[\w.-]*ollama[\w.-]*):11434"
ASKED = Sign(
    rf"(?P<url>{_LOCAL}\S*) \"HTTP/[\d.]+ (?P<status>407|502|504)\b", words=["bad gateway", "gateway time",
    "proxy authentication"],
)  # fmt: skip
REFUSED = Sign(
    rf"\b(?P<status>407|502|504)\b.{{0,60}}? for url:? '?(?P<url>{_LOCAL}[^\s']*)",
    words=["for url"],
)
# the Python library of Ollama shows the body and the status; the body of a proxy is often empty
EMPTY = Sign(
    r"ollama\._types\.ResponseError: ?\(status code: (?P<status>407|502|504)\)$", words=["responseerror"]
)
HTML = Sign(
    r"ERR_ACCESS_DENIED|ERR_CANNOT_FORWARD|ERR_CONNECT_FAIL\b|ERR_DNS_FAIL\b|X-Squid-Error|Server: squid"
    r"|\bsquid/\d"
    r"|\(squid\)|generated .*by .*\(squid|Zscaler|BlueCoat|McAfee Web Gateway|FortiGuard|FortiGate|Privoxy"
    r"|tinyproxy"
    r"|Proxy Authentication Required|Via: 1\.[01] \S+|mitmproxy|<center>nginx",
    words=[
        "err_access_denied",
        "err_cannot_forward",
        "err_connect_fail",
        "err_dns_fail",
        "x-squid-error",
        "squid",
        "zscaler",
        "bluecoat",
        "mcafee web gateway",
        "fortiguard",
        "fortigate",
        "privoxy",
        "tinyproxy",
        "proxy authentication required",
        "via: 1.",
        "mitmproxy",
        "<center>nginx",
    ],
)
CURL = Sign(
    r"Uses proxy env variable (?P<name>\w+) == '(?P<proxy>[^']*)'"
    r"|Received HTTP code (?P<status>\d+) from proxy"
    r"|Establish HTTP proxy tunnel to (?P<host>[^\s:]+)|CONNECT tunnel failed, response (?P<tunnel>\d+)",
    words=["proxy env variable", "from proxy", "proxy tunnel to", "connect tunnel failed"],
)
PYTHON = Sign(
    r"ProxyError\(|Cannot connect to proxy|Unable to connect to proxy|httpx\.ProxyError|proxyconnect tcp"
    r"|tunneling socket could not be established",
    words=["proxyerror", "connect to proxy", "proxyconnect tcp", "tunneling socket"],
)
GO_CLI = Sign(
    r"Error: something went wrong, please see the ollama server logs",
    words=["something went wrong, please see"],
)
VARIABLE = Sign(
    r"\b(?P<name>https?_proxy|all_proxy)\b[\"']?[=:] ?[\"']?(?P<proxy>(?:https?|socks5?h?)://[^\s\"',\]]+)",
    words=["http_proxy", "https_proxy", "all_proxy"],
)
NO_PROXY = Sign(r"\bno_proxy\b[\"']?[=:] ?[\"']?(?P<hosts>[^\s\"'\]]*)", words=["no_proxy"])
_PROXY_STATUS = frozenset({"403", "407", "502", "503", "504"})
_URL = re.compile(r"https?://[^\s\"'<>)]+")


def check(evidence: Evidence) -> Iterator[Finding]:
    """An answer that no engine writes, for a URL of this machine; then readings."""
    hits = [*_answers(evidence), *_curl(evidence), *_python(evidence), *_gateways(evidence)]
    words = [hit for hit in evidence.hits(HTML) if hits or _about_local(evidence, hit)]
    variables = evidence.hits(VARIABLE)
    if hits or words:
        yield _of_answers(evidence, hits, words, variables)
    elif evidence.has(GO_CLI) and variables and not _spared(evidence):
        yield _of_command_line(evidence, variables)
    else:
        yield from _of_readings(evidence)


def _answers(evidence: Evidence) -> list[Hit]:
    found = []
    for hit in evidence.hits(ANSWER_NOT_JSON, RAW):
        mime = str(hit.match.groupdict().get("mime") or "").lower()
        status = hit["status"]
        if not is_local(host_of(hit["url"])) or status not in _PROXY_STATUS:
            continue
        # Ollama itself answers 403 without a body where it refuses a Host or an Origin
        if "html" in mime or status != "403" or "mime" not in hit.match.groupdict():
            found.append(hit)
    return found


def _curl(evidence: Evidence) -> list[Hit]:
    """curl tells that it goes through a proxy; that counts where it was sent to a place nearby."""
    return [
        hit
        for hit in evidence.hits(CURL)
        if is_local(hit["host"] or "x.example") or _about_local(evidence, hit)
    ]


def _python(evidence: Evidence) -> list[Hit]:
    return [hit for hit in evidence.hits(PYTHON) if _about_local(evidence, hit)]


def _gateways(evidence: Evidence) -> list[Hit]:
    """Statuses of a gateway that Ollama's own log does not know; it writes them for models of the cloud."""
    if any(one.status in (407, 502, 504) for one in requests(evidence)):
        return []
    hits = evidence.hits(ASKED, REFUSED, EMPTY)
    return [hit for hit in hits if is_local(host_of(hit.match.groupdict().get("url") or "http://localhost"))]


def _about_local(evidence: Evidence, hit: Hit) -> bool:
    """Whether the lines around name a URL or a port of this stack on this machine."""
    near = [entry.plain for entry in evidence.around(hit.entry, before=8, after=4)]
    for line in near:
        for url in _URL.findall(line):
            if is_local(host_of(url)):
                return True
        if re.search(
            r"(?:localhost|127\.0\.0\.1|host='?(?:localhost|ollama)|host\.docker\.internal)\W", line
        ):
            return True
    return False


def _spared(evidence: Evidence) -> bool:
    hosts = ",".join(hit["hosts"] for hit in evidence.hits(NO_PROXY))
    return any(word in hosts for word in ("localhost", "127.0.0.1", "*", "0.0.0.0"))  # noqa: S104


def _of_answers(
    evidence: Evidence, hits: Sequence[Hit], words: Sequence[Hit], variables: Sequence[Hit]
) -> Finding:
    url = next((found for hit in hits if (found := hit.match.groupdict().get("url"))), "")
    status = next((found for hit in hits if (found := hit.match.groupdict().get("status"))), "")
    html = any("html" in hit.entry.plain.lower() for hit in hits)
    by_name = any(not re.search("nginx", hit.entry.plain, re.IGNORECASE) for hit in words)
    only_nginx = bool(words) and not by_name
    empty = bool(hits) and all(hit.match.groupdict().get("mime") == "" for hit in hits)
    confidence = 0.9 if by_name or (html and variables) or (hits and variables) else 0.85 if html else 0.6
    if only_nginx and not variables:
        confidence = 0.45  # a web server that stands before Ollama on purpose says the same
    elif empty and not variables and not words:
        confidence = 0.6
    said = (
        f"The answer to {url or 'a call on this machine'} has status {status}"
        if status
        else "A proxy answered a call on this machine"
    )
    said += " and is a page of HTML" if html else ""
    return Finding(
        cause="proxy_intercepts_local",
        title="A proxy answers instead of the service",
        severity=Severity.ERROR,
        confidence=confidence,
        evidence=quotes(*hits[:2], *words[:1], *variables[:1]),
        why=f"{said}; Ollama writes JSON or plain text, and no engine of this stack writes such an answer."
        + (f" The environment sets {variables[0]['name']}." if variables else ""),
        ruled_out=(
            RuledOut(cause="cors_origin_403", why="Ollama's own 403 has an empty body, never a page of HTML"),
            RuledOut(
                cause="owui_cannot_reach_ollama",
                why="somebody answered: the connection was made, to the proxy",
            ),
        ),
        remedy=_remedy(evidence, url),
        about=url,
    )


def _of_command_line(evidence: Evidence, variables: Sequence[Hit]) -> Finding:
    return Finding(
        cause="proxy_intercepts_local",
        title="The command line may speak to a proxy instead of to Ollama",
        severity=Severity.ERROR,
        confidence=0.6,
        evidence=quotes(evidence.first(GO_CLI), *variables[:1]),
        why=f"«ollama» got an answer that it can't read, and {variables[0]['name']} is set without "
        "NO_PROXY: a call to an address that is not loopback (OLLAMA_HOST=0.0.0.0 too) goes to the "
        "proxy.",
        ruled_out=(RuledOut(cause="ollama_unreachable", why="somebody answered"),),
        remedy=_remedy(evidence, ""),
    )


def _of_readings(evidence: Evidence) -> Iterator[Finding]:
    """OpenWebUI goes through http_proxy also for localhost, unless no_proxy names the host."""
    for row in evidence.all_readings("proxy"):
        env = _lower(row)
        proxy = env.get("http_proxy") or env.get("all_proxy")
        if not proxy or "webui" not in row.about.lower():
            continue
        spared = [word.strip().lstrip(".") for word in env.get("no_proxy", "").split(",") if word.strip()]
        caught = [
            one.about
            for one in evidence.all_readings("openwebui.backend")
            if not _is_spared(host_of(one.about), spared)
        ]
        if not caught and _is_spared("localhost", spared):
            continue
        broken = [
            one
            for one in evidence.all_readings("openwebui.backend")
            if one.about in caught and isinstance(one.value, dict) and one.value.get("reachable") is False
        ]
        yield Finding(
            cause="proxy_intercepts_local",
            title="OpenWebUI sends local calls to a proxy",
            severity=Severity.ERROR if broken else Severity.WARNING,
            confidence=0.8 if broken else 0.5,
            evidence=(evidence.quote_reading(row), *(evidence.quote_reading(one) for one in broken[:2])),
            why=f"http_proxy is set in {row.about}, and no_proxy does not name "
            f"{', '.join(caught) or 'localhost'}: those calls go to the proxy, which can't reach this "
            "machine's services.",
            ruled_out=(),
            remedy=_remedy(evidence, caught[0] if caught else ""),
            about=row.about,
        )
        return


def _lower(row: Reading) -> dict[str, str]:
    value = row.value if isinstance(row.value, dict) else {}
    return {str(name).lower(): str(text) for name, text in value.items()}


def _is_spared(host: str, spared: Sequence[str]) -> bool:
    return "*" in spared or any(host == word or host.endswith("." + word) for word in spared if word)


def _remedy(evidence: Evidence, url: str) -> Remedy:
    host = host_of(url)
    names = ["localhost", "127.0.0.1", "::1", "host.docker.internal", "ollama"]
    if host and host not in names and not is_loopback(host):
        names.append(host)
    inside = container(evidence, "openwebui")
    setting = f"NO_PROXY={','.join(names)}"
    return Remedy(
        text="Name the hosts of this machine in NO_PROXY, in capitals and in small letters: programs read "
        "one or the other. The service and the shell need it, not the browser.",
        commands=(
            Command(text="env | grep -i _proxy", safe=True),
            *settings(setting, "open-webui"),
            *settings(setting.replace("NO_PROXY", "no_proxy"), "open-webui", in_container=True),
            Command(text=f'export {setting} no_proxy="$NO_PROXY"', safe=True, note="in the shell that calls"),
        ),
        verify="JSON comes back from the place that calls, not a page of HTML.",
        verify_commands=(
            look(
                f"{url.split('/api/', 1)[0] or 'http://127.0.0.1:11434'}/api/version",
                inside,
                live=evidence.live,
            ),
        ),
    )


REMEDY = Remedy(
    text="Name the hosts of this machine in NO_PROXY for the service that calls.",
    commands=(
        Command(text="env | grep -i _proxy", safe=True),
        *settings("NO_PROXY=localhost,127.0.0.1,::1,host.docker.internal,ollama", "open-webui"),
    ),
    verify="JSON comes back from the place that calls.",
    verify_commands=(
        Command(text="docker exec open-webui curl -sS http://ollama:11434/api/version", safe=True),
        Command(
            text="curl --noproxy '*' -sS http://127.0.0.1:11434/api/version", safe=True, note="past the proxy"
        ),
    ),
)

RULE = Rule(
    slug="proxy_intercepts_local",
    title="A proxy catches local calls",
    area="service",
    meaning="HTTP_PROXY is set for the program that calls, and NO_PROXY does not name the host of this "
    "machine. The call goes to the proxy, and its page of HTML comes back instead of Ollama's JSON.",
    signature=(
        "403, message='Attempt to decode JSON with unexpected mimetype: text/html', "
        "url='http://localhost:11434/api/tags'",
        "502, message='Attempt to decode JSON with unexpected mimetype: ', "
        "url='http://host.docker.internal:11434/…'",
        "curl: Uses proxy env variable http_proxy == 'http://proxy:3128'",
        "Server error '502 Bad Gateway' for url 'http://127.0.0.1:11434/api/chat'",
    ),
    certain="«curl --noproxy '*'» to the same URL gets JSON, and without it HTML.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="cors_origin_403",
            how="That 403 is Ollama's: it is in its access log, and its body is empty.",
        ),
        LookAlike(cause="queue_full", how="That 503 is Ollama's: JSON that names the queue."),
        LookAlike(cause="owui_cannot_reach_ollama", how="There nobody answers at all."),
    ),
    signs=(RAW, ASKED, REFUSED, EMPTY, HTML, CURL, PYTHON, GO_CLI, VARIABLE, NO_PROXY),
    explains=("owui_cannot_reach_ollama", "owui_500_while_ollama_ok"),
    check=check,
)
