"""A small, quick HTTP/1.1 server: keep-alive, streams in chunks, and it knows when its peer has left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

JSON = "application/json; charset=utf-8"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
_END = b"0\r\n\r\n"


def whole(content: bytes, status: int = 200, kind: str = JSON) -> bytes:
    """A complete answer, head and body."""
    head = f"HTTP/1.1 {status} {_WORDS.get(status, 'Other')}\r\nContent-Type: {kind}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content


def opening(kind: str) -> bytes:
    """The head of a stream."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def chunk(content: bytes) -> bytes:
    """One piece of a stream."""
    return b"%x\r\n%s\r\n" % (len(content), content)


class Exchange:
    """One request, and the way to answer it. ``left`` is called when the peer goes before the end."""

    __slots__ = ("_wire", "body", "left", "method", "path", "state")

    def __init__(self, wire: Wire, method: str, path: str, body: bytes) -> None:
        self._wire, self.method, self.path, self.body = wire, method, path, body
        self.state = "waiting"  # "streaming", "done"
        self.left: Callable[[], None] | None = None

    @property
    def open(self) -> bool:
        """Whether somebody still listens."""
        return self.state != "done"

    def reply(self, answer: bytes) -> None:
        """A complete answer, as :func:`whole` makes it."""
        if self.open:
            self.state = "done"
            if self.method == "HEAD":
                answer = answer[: answer.index(b"\r\n\r\n") + 4]
            self._wire.write(answer)
            self._wire.answered()

    def begin(self, head: bytes) -> None:
        """A stream."""
        if self.open:
            self.state = "streaming"
            self._wire.write(head)

    def piece(self, framed: bytes) -> None:
        """More of the stream, already as chunks."""
        if self.open:
            self._wire.write(framed)

    def end(self, last: bytes = b"") -> None:
        """The stream's end."""
        if self.open:
            self.state = "done"
            self._wire.write(last + _END)
            self._wire.answered()

    def break_off(self) -> None:
        """The connection ends in the middle of whatever it is."""
        self.state = "done"
        self._wire.abort()


class Wire(asyncio.Protocol):
    """One connection. Requests are answered one after the other."""

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of a request, or of the next one while an answer is under way."""
        self._buffer = self._buffer + data if self._buffer else data
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        exchange, self._exchange = self._exchange, None
        self._transport = None
        if exchange is not None and exchange.open:
            if exchange.left is not None:
                exchange.left()
            exchange.state = "done"

    def write(self, data: bytes) -> None:
        """To the client, if it is there."""
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """End without a word."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def answered(self) -> None:
        """The exchange is over; the next may begin."""
        self._exchange = None
        if self._close and self._transport is not None:
            self._transport.close()
        elif self._buffer and self._transport is not None:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._exchange is not None or self._transport is None:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        lowered = head.lower()
        length = _LENGTH.search(lowered)
        if length is None and b"transfer-encoding: chunked" in lowered:
            found = _chunked(self._buffer, end + 4)
            if found is None:
                return
            body, used = found
        else:
            used = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < used:
                return
            body = self._buffer[end + 4 : used]
        self._buffer = self._buffer[used:]
        self._close = b"\r\nconnection: close" in lowered
        method, target, _ = head[: head.index(b"\r\n")].decode("latin-1").split(" ", 2)
        exchange = self._exchange = Exchange(self, method, target.partition("?")[0], body)
        self._answer(exchange)


def _chunked(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Body and its end, once all of it is there."""
    body = b""
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].partition(b";")[0], 16)
        if len(data) < line + 2 + size + 2:
            return None
        body += data[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
        if not size:
            return body, at
    return None
