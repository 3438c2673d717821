"""``Tapped``: what passed by on its way to the client, taken from a copy of its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from aiohttp import web

from narthex.gateway.relay.figures import Figures
from narthex.gateway.trouble import Trouble

TAIL_BYTES = 64 * 1024


@dataclass(slots=True)
class Tapped:
    """One answer. Times in seconds from the request to the engine, rates in tokens per second.

    ``complete``: it came to its end as its dialect has it. ``trouble``: why it broke off after its first
    byte; the client has been told already.
    """

    status: int
    response: web.StreamResponse
    first_byte_s: float | None = None
    bytes_out: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tps: float | None = None
    decode_tps: float | None = None
    complete: bool = False
    trouble: Trouble | None = None

    def take(self, figures: Figures) -> None:
        """The engine's own figures."""
        self.prompt_tokens, self.output_tokens = figures.prompt_tokens, figures.output_tokens
        self.prompt_tps, self.decode_tps = figures.prompt_tps, figures.decode_tps


class Tail:
    """The last bytes of a stream: the pieces as they came, so that nothing is copied on the way."""

    __slots__ = ("_count", "_pieces")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._count = 0

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self._pieces.append(piece)
        self._count += len(piece)
        while self._count - len(self._pieces[0]) >= TAIL_BYTES:
            self._count -= len(self._pieces.popleft())

    def end(self) -> bytes:
        """At most the last ``TAIL_BYTES``."""
        return b"".join(self._pieces)[-TAIL_BYTES:]
