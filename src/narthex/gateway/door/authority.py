"""``Authority``: the host and port of a Host header, an Origin or a request target, in one spelling.

What a browser would never write is no host here: a user's name, a zone, a dot at the end, an address in octal
or as one number. Such forms mean one thing to one parser and another thing to the next.
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*", re.ASCII
)
_FORM = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^\[\]:@/?#\s]+)(?::([0-9]{1,5}))?", re.ASCII)
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class Authority(msgspec.Struct, frozen=True):
    """``host``: in lower case, an IPv6 address without brackets. ``port`` None: not said."""

    host: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """By its name or address alone: nothing is looked up, since who rebinds a name rules its answers."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        address = address_of(self.host)
        return address is not None and address.is_loopback


def authority_of(text: str) -> Authority | None:
    """Of «127.0.0.1:11435», «[::1]» or a name; None where it is none of these."""
    found = _FORM.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    host, port = found[1], int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        return None
    if host.startswith("["):
        address = address_of(host[1:-1])
        return Authority(str(address), port) if address is not None and address.version == 6 else None
    if address_of(host) is not None:
        return Authority(host, port)
    last = host.rpartition(".")[2]
    if not _NAME.fullmatch(host) or _NUMBER.fullmatch(last):  # what ends in a number is read as an address
        return None
    return Authority(host, port)


def origin_of(text: str) -> tuple[str, Authority] | None:
    """Scheme and authority of an Origin, its port filled in; None for «null» and what is no web page's."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    found = authority_of(rest)
    if found is None or scheme not in _PORTS:
        return None
    return scheme, Authority(found.host, found.port or _PORTS[scheme])


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Of an address in its usual form; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
