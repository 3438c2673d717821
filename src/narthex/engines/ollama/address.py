"""Where a server is: ``OLLAMA_HOST`` by Ollama's own rules, and whether that address is this machine."""

from __future__ import annotations

import ipaddress

import msgspec

from narthex.errors import UsageError
from narthex.host.listeners import own_address

DEFAULT_PORT = 11434
_SCHEME_PORTS = {"http": 80, "https": 443}
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a client's reading of a server's setting)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A server's address as a client uses it; ``host`` without brackets, ``path`` "" or "/below"."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""

    @property
    def url(self) -> str:
        """``http://127.0.0.1:11434``, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def here(self) -> str | None:
        """The address of this machine that the name stands for; None where it is another machine's."""
        return own_address(self.host, self.port)


def parse_host(text: str) -> Address:
    """The address that ``OLLAMA_HOST`` means to Ollama's own client.

    ``host``, ``host:port``, ``:port``, ``[::1]:port``, ``http://host`` (port 80 then, not 11434); blanks and
    quotes around it don't count, a port that is no port gives the default. An address to listen on
    everywhere becomes this machine's loopback.
    """
    words = text.strip(" \t\r\n'\"")
    scheme, found, rest = words.partition("://")
    if not found:
        scheme, rest = "http", words
    default = _SCHEME_PORTS.get(scheme.lower(), DEFAULT_PORT) if found else DEFAULT_PORT
    place, _, path = rest.partition("/")
    host, port = _split(place)
    number = int(port) if port.isdecimal() and int(port) <= 65535 else default
    host = _WILDCARDS.get(host, host) or "127.0.0.1"
    path = f"/{path}".rstrip("/")
    return Address(scheme=scheme.lower(), host=host, port=number, path=path)


def parse_given(text: str) -> Address:
    """What a person gave as the server's address. Raises UsageError where that can't be one."""
    way = "Write it as http://127.0.0.1:11434, or host:port."
    address = parse_host(text)
    if not text.strip() or any(letter.isspace() for letter in text.strip()):
        raise UsageError(f"«{text}» is no address of an Ollama server.", hint=way)
    if address.scheme not in _SCHEME_PORTS:
        raise UsageError(f"Ollama speaks http or https, not «{address.scheme}».", hint=way)
    if "@" in text:
        raise UsageError(
            "The address holds a user name or password, and narthex sends none.",
            hint="Use a tunnel: ssh -L 11435:127.0.0.1:11434 HOST, and then --ollama 127.0.0.1:11435.",
        )
    return address


def _split(place: str) -> tuple[str, str]:
    """Host and port of «host:port»; an IPv6 address without brackets is all host."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":")
    try:
        return str(ipaddress.ip_address(place)), ""
    except ValueError:
        host, _, port = place.partition(":")
        return host, port
