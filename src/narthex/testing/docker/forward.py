"""A published port: what docker-proxy is to a real container."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading

_PIECE = 65_536


class Forward:
    """Takes connections on ``host:port`` and passes them to ``127.0.0.1:target``. Port 0: any free one."""

    def __init__(self, host: str, port: int, target: int) -> None:
        self._server = _Server((host, port), _Pass)
        self._server.target = target
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Take no more; what is open goes on until one side ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    target = 0


class _Pass(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.server.target)) as inner,
        ):
            self._pump({self.request: inner, inner: self.request})

    def _pump(self, other: dict[socket.socket, socket.socket]) -> None:
        while True:
            ready, _, _ = select.select(list(other), [], [])
            for side in ready:
                data = side.recv(_PIECE)
                if not data:
                    return
                other[side].sendall(data)
