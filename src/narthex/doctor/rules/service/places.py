"""Hosts, addresses and containers: what a name in a line stands for."""

from __future__ import annotations

import ipaddress
import re

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Quote
from narthex.doctor.sign import Sign
from narthex.doctor.signs import comfyui, ollama

REGISTRIES = re.compile(
    r"(?:^|\.)(?:ollama\.(?:ai|com)|cloudflarestorage\.com|huggingface\.co|hf\.co|docker\.(?:io|com)"
    r"|ghcr\.io|github\.com|githubusercontent\.com|modelscope\.cn)$",
    re.IGNORECASE,
)
_LOCAL_ENDS = (".localhost", ".local", ".internal", ".lan", ".home", ".svc", ".svc.cluster.local")
_EVERYWHERE = ("0.0.0.0", "::", "*", "")  # noqa: S104 (what others listen on)
_STARTED = (ollama.LISTENING, comfyui.STARTED)
_EXEC = re.compile(r"docker exec (?:-\S+ )*(?P<name>[\w.-]+) ")


def is_loopback(host: str) -> bool:
    """Only this machine, or only this container, reaches it."""
    bare = host.strip("[]").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def is_everywhere(host: str) -> bool:
    """A listener's address that stands for all of the machine's addresses."""
    return host.strip("[]") in _EVERYWHERE


def is_local(host: str) -> bool:
    """No name or address of the internet: loopback, a private address, a service or container's name."""
    bare = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return "." not in bare or bare.endswith(_LOCAL_ENDS)
    return address.is_private or address.is_loopback or address.is_unspecified


def host_of(url: str) -> str:
    """The host in «http://host:port/…», without brackets; "" where there is none."""
    found = re.match(r"\w+://(?:[^/@\s]*@)?(\[[^\]]+\]|[^/:\s'\"]+)", url)
    return found[1].strip("[]") if found else ""


def container(evidence: Evidence, role: str) -> str:
    """The name of the container with that role; "" where none is known."""
    for row in evidence.all_readings("container"):
        if isinstance(row.value, dict) and row.value.get("role") == role:
            return row.about
    if role == "ollama":
        for entry in evidence.lines("commands"):
            if found := _EXEC.search(entry.plain):
                return found["name"]
    return ""


def later(evidence: Evidence, entry: Entry, *signs: Sign) -> Hit | None:
    """The first line with one of these signs that comes after it in its own source."""
    return next(
        (
            hit
            for hit in evidence.hits(*signs)
            if hit.entry.source == entry.source and hit.entry.line > entry.line
        ),
        None,
    )


def started_later(evidence: Evidence, entry: Entry) -> Hit | None:
    """A service that came up after this line: what the line tells of its start is over."""
    return later(evidence, entry, *_STARTED)


def quotes(*hits: Hit | Entry | None, most: int = 4) -> tuple[Quote, ...]:
    """Lines as evidence, each text once, at most so many."""
    entries = [hit.entry if isinstance(hit, Hit) else hit for hit in hits if hit is not None]
    first = {entry.plain: entry for entry in reversed(entries)}
    return tuple(entry.quote() for entry in dict.fromkeys(entries) if first[entry.plain] is entry)[:most]
