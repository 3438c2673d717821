"""Where the gateway listens: a host and a port out of one text."""

from __future__ import annotations

from narthex.errors import UsageError

LISTEN = "127.0.0.1:11435"


def place_of(text: str) -> tuple[str, int]:
    """Host and port of «127.0.0.1:11435» or «[::1]:11435». Raises UsageError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    if not colon or not host or not 0 <= number < 65536:
        raise UsageError(f"«{text}» is no place to listen.", hint=f"Write HOST:PORT, as in {LISTEN}.")
    return host, number
