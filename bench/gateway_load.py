"""Requests to a gateway, quick enough not to be what is measured: raw sockets, kept alive.

As a program, for many clients in a process of its own; it prints one line of JSON:

    python bench/gateway_load.py PORT PATH MODEL [--clients 32] [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from dataclasses import dataclass
from typing import cast

import uvloop

_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """Where to ask: a name for the table, a port of loopback, a path, and the model's name."""

    name: str
    port: int
    path: str
    model: str

    def request(self, *, stream: bool) -> bytes:
        """The bytes of a small question."""
        found = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Say something."}],
            "stream": stream,
        }
        body = json.dumps(found).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer none\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Caller:
    """One connection that is used again and again."""

    def __init__(self, target: Target, *, stream: bool) -> None:
        self.target, self._request = target, target.request(stream=stream)
        self._socket = socket.create_connection(("127.0.0.1", target.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> float:
        """Seconds until the whole answer was there. Raises RuntimeError for one that is not 200."""
        begin = time.perf_counter()
        self._socket.sendall(self._request)
        data = b""
        while not whole(data):
            more = self._socket.recv(1 << 16)
            if not more:
                raise RuntimeError(f"{self.target.name} closed the connection: {data[:200]!r}")
            data += more
        seconds = time.perf_counter() - begin
        if not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{self.target.name}: {data[:300]!r}")
        return seconds

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def whole(data: bytes) -> bool:
    """Whether a complete answer is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return data.endswith(_END)
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    return len(data) >= end + 4 + length


class _Client(asyncio.Protocol):
    """Asks anew as soon as it is answered."""

    def __init__(self, request: bytes, until: float, took: list[float], ended: asyncio.Future[None]) -> None:
        self._request, self._until, self._took, self._ended = request, until, took, ended
        self._data = b""
        self._begin = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not whole(self._data):
            return
        if not self._data.startswith(b"HTTP/1.1 200"):
            self._ended.set_exception(RuntimeError(self._data[:300]))
            return self._transport.abort()
        self._took.append(time.perf_counter() - self._begin)
        self._data = b""
        if time.perf_counter() < self._until:
            return self._ask()
        self._transport.close()
        return self._ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(RuntimeError("the connection was closed"))

    def _ask(self) -> None:
        self._begin = time.perf_counter()
        self._transport.write(self._request)


async def crowd(target: Target, clients: int, seconds: float) -> dict[str, float]:
    """Requests a second of so many clients, each with one request at a time."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    request, begin = target.request(stream=False), time.perf_counter()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
    for end in ends:
        await loop.create_connection(
            lambda end=end: _Client(request, begin + seconds, took, end),  # type: ignore[misc]
            "127.0.0.1",
            target.port,
        )
    await asyncio.gather(*ends)
    spent = time.perf_counter() - begin
    took.sort()
    return {
        "requests": len(took),
        "per_s": len(took) / spent,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    target = Target("crowd", given.port, given.path, given.model)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(crowd(target, given.clients, given.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
