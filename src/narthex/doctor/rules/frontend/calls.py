"""Calls of OpenWebUI and other clients that reached nobody: whom they meant, and what the system said."""

from __future__ import annotations

import re

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.rules.service.places import is_local, is_loopback
from narthex.doctor.sign import Sign
from narthex.doctor.signs import openwebui

# Other clients in containers: Node, Python, curl, Go
NOT_RESOLVED = Sign(
    r"getaddrinfo (?:ENOTFOUND|EAI_AGAIN) (?P<node>[\w.-]+)|Could not resolve host:? (?P<curl>[\w.-]+)"
    r"|Failed to resolve '(?P<python>[\w.-]+)'|lookup (?P<go>[\w.-]+)(?: on \S+)?: no such host",
    words=["getaddrinfo e", "could not resolve host", "failed to resolve", "lookup "],
)
REFUSED = Sign(
    r"(?:ECONNREFUSED|Failed to connect to) (?P<host>[\w.:\[\]-]+?)(?: port |:)(?P<port>\d+)"
    r"|dial tcp (?P<go>[\w.:\[\]-]+):(?P<go_port>\d+): connect: (?P<why>connection refused|no route to host)"
    r"|host='(?P<python>[^']+)', port=(?P<python_port>\d+)\): Max retries exceeded",
    words=["econnrefused", "failed to connect to", "dial tcp", "max retries exceeded"],
)
_UNKNOWN = re.compile(
    r"name or service not known|nodename nor servname|name resolution|no such host|no address associated"
    r"|getaddrinfo failed|domain name not found|not resolve|enotfound|try again",
    re.IGNORECASE,
)
_SLOW = re.compile(r"timed? ?out|unreachable|no route|semaphore timeout|^none$", re.IGNORECASE)
OLLAMA_PORT = 11434


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that reached nobody."""

    host: str
    port: int | None
    said: str  # the system's words
    entry: Entry

    @property
    def unknown_name(self) -> bool:
        """The name was not resolved."""
        return bool(_UNKNOWN.search(self.said))

    @property
    def silent(self) -> bool:
        """Nobody answered at all: no refusal either."""
        return bool(_SLOW.search(self.said)) and not self.unknown_name

    @property
    def place(self) -> str:
        """«host:port»."""
        return f"{self.host}:{self.port}" if self.port else self.host


def ollama_calls(evidence: Evidence) -> list[Call]:
    """Those that meant Ollama."""
    found: list[Call | None] = [_of_openwebui(hit) for hit in evidence.hits(openwebui.CANNOT_CONNECT)]
    found += [_of_others(hit) for hit in evidence.hits(NOT_RESOLVED, REFUSED)]
    return [call for call in found if call is not None and call.entry.kind != "host" and _means_ollama(call)]


def comfyui_calls(evidence: Evidence) -> list[Call]:
    """Those that meant ComfyUI."""
    found: list[Call | None] = [_of_openwebui(hit) for hit in evidence.hits(openwebui.CANNOT_CONNECT)]
    found += [_of_others(hit) for hit in evidence.hits(REFUSED)]
    return [
        call
        for call in found
        if call is not None and (call.port == 8188 or "comfy" in f"{call.host} {call.entry.plain}".lower())
    ]


def _of_openwebui(hit: Hit) -> Call:
    return Call(
        host=hit["host"].strip("[]"), port=int(hit["port"]), said=hit["why"].strip("[] "), entry=hit.entry
    )


def _of_others(hit: Hit) -> Call | None:
    groups = {name: str(text) for name, text in hit.match.groupdict().items() if text}
    host = next((groups[name] for name in ("node", "curl", "python", "go", "host") if name in groups), "")
    port = next((groups[name] for name in ("port", "go_port", "python_port") if name in groups), "")
    if not host:
        return None
    said = hit.entry.plain
    return Call(host=host.strip("[]"), port=int(port) if port else None, said=said, entry=hit.entry)


def _means_ollama(call: Call) -> bool:
    """By the port, the host's name, or the module that tells of it; never the internet, never ComfyUI."""
    line = call.entry.plain.lower()
    if call.port in (443, 80, 8188) or "comfy" in call.host.lower():
        return False
    if "/completion" in line or "/health" in line:
        return False  # Ollama's own runner, on a port of its own
    if call.port == OLLAMA_PORT or "ollama" in call.host.lower():
        return is_local(call.host) or call.port == OLLAMA_PORT
    if call.host == "host.docker.internal":
        return call.port in (None, OLLAMA_PORT) or "ollama" in line
    return "routers.ollama" in line or "ollama.main" in line


def over_since(evidence: Evidence, call: Call) -> Entry | None:
    """A chat that OpenWebUI answered later, in the same source."""
    return next(
        (
            hit.entry
            for hit in evidence.hits(openwebui.ANSWERED)
            if hit.entry.source == call.entry.source and hit.entry.line > call.entry.line
        ),
        None,
    )


def is_own_loopback(call: Call) -> bool:
    """It asked itself: localhost, in a container the container."""
    return is_loopback(call.host) or call.host == "0.0.0.0"  # noqa: S104 (asked, not listened on)
