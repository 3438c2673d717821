"""The server's side of a WebSocket (RFC 6455), as far as a fake needs it.

Text and previews go out; what clients say is kept, pings are answered, and either side may end it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
from typing import Any, BinaryIO

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_PREVIEW, _JPEG = 1, 1  # ComfyUI's types of a binary message, and of the picture in it


def accept_key(key: str) -> str:
    """The answer to the client's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()).decode()


class Sockets:
    """Open sockets by client id. A used id takes the place of the older socket, as in ComfyUI.

    ``heard``: client and text of what clients said; ``ended``: client and close code of those that left.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.ended: list[tuple[str, int | None]] = []
        self._open: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def serve(self, client: str, connection: socket.socket, first: dict[str, Any]) -> None:
        """Say hello, then stay until the client leaves."""
        with self._lock:
            self._open[client] = connection
            _write_text(connection, {"type": first["type"], "data": first["data"]})
        code = None
        with contextlib.suppress(OSError, EOFError), connection.makefile("rb") as stream:
            code = self._listen(client, connection, stream)
        self.ended.append((client, code))
        with self._lock:
            if self._open.get(client) is connection:
                del self._open[client]

    def send(self, event: str, data: dict[str, Any], client: str | None) -> None:
        """To one client, or to all. Who left does not hear it."""
        with self._lock:
            for connection in self._to(client):
                _write_text(connection, {"type": event, "data": data})

    def preview(self, picture: bytes, client: str | None) -> None:
        """A picture of how far it is, as a sampler sends it: its type, its format, then the file."""
        with self._lock:
            for connection in self._to(client):
                _write(connection, _BINARY, struct.pack(">II", _PREVIEW, _JPEG) + picture)

    def end(self, client: str, code: int, words: str = "") -> None:
        """End a client's socket from this side."""
        with self._lock:
            for connection in self._to(client):
                _write(connection, _CLOSE, struct.pack(">H", code) + words.encode())

    def clients(self) -> set[str]:
        """Whose sockets are open."""
        with self._lock:
            return set(self._open)

    def drop(self) -> None:
        """All connections break off, without a word."""
        with self._lock:
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _to(self, client: str | None) -> list[socket.socket]:
        return [each for name, each in self._open.items() if client in (None, name)]

    def _listen(self, client: str, connection: socket.socket, stream: BinaryIO) -> int | None:
        """Until it ends; the code that it gave."""
        while True:
            kind, content = _read(stream)
            if kind == _CLOSE:
                with self._lock:
                    _write(connection, _CLOSE, content)
                return int.from_bytes(content[:2]) if content else None
            if kind == _PING:
                with self._lock:
                    _write(connection, _PONG, content)
            elif kind == _TEXT:
                self.heard.append((client, content.decode()))


def _read(stream: BinaryIO) -> tuple[int, bytes]:
    """One frame of a client: kind and content. Clients mask theirs. Raises EOFError."""
    head = _exactly(stream, 2)
    size = head[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(_exactly(stream, 2 if size == 126 else 8))
    mask = _exactly(stream, 4) if head[1] & 0x80 else bytes(4)
    content = _exactly(stream, size)
    return head[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _write_text(connection: socket.socket, message: dict[str, Any]) -> None:
    _write(connection, _TEXT, json.dumps(message).encode())


def _write(connection: socket.socket, kind: int, content: bytes) -> None:
    count = len(content)
    if count < 126:
        size = bytes([count])
    else:
        size = b"\x7e" + struct.pack(">H", count) if count < 2**16 else b"\x7f" + struct.pack(">Q", count)
    with contextlib.suppress(OSError):
        connection.sendall(bytes([0x80 | kind]) + size + content)
