"""The server's side of a WebSocket (RFC 6455), as far as a fake needs it: text out, the end in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
from typing import Any

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    """The answer to the client's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()).decode()


class Sockets:
    """Open sockets by client id. A used id takes the place of the older socket, as in ComfyUI."""

    def __init__(self) -> None:
        self._open: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def serve(self, client: str, connection: socket.socket, first: dict[str, Any]) -> None:
        """Say hello, then stay until the client leaves."""
        with self._lock:
            self._open[client] = connection
        self._write(connection, first)
        with contextlib.suppress(OSError):
            while (head := connection.recv(4096)) and head[0] & 0x0F != 8:
                pass
        with self._lock:
            if self._open.get(client) is connection:
                del self._open[client]

    def send(self, event: str, data: dict[str, Any], client: str | None) -> None:
        """To one client, or to all. Who left does not hear it."""
        with self._lock:
            targets = [each for name, each in self._open.items() if client is None or name == client]
            for connection in targets:
                self._write(connection, {"type": event, "data": data})

    @staticmethod
    def _write(connection: socket.socket, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack(">H", len(text))
        with contextlib.suppress(OSError):
            connection.sendall(b"\x81" + size + text)
