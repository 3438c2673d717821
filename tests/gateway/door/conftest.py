"""A door in front of a real server, asked by raw bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from narthex.gateway.door.door import Door, read_body
from narthex.gateway.door.wire import wire_logger
from narthex.gateway.framing import refusal
from narthex.gateway.trouble import Trouble
from narthex.policy.records import GatewayPolicy

PATIENCE_S = 10.0
LIMIT = 4096


@dataclass
class Porch:
    """What came through, as (key's name, method, path, body)."""

    port: int
    came: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    heads: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    async def raw(self, data: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
        """Send these bytes and read until the server closes, or nothing comes any more."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = b""
        try:
            writer.write(data)
            async with asyncio.timeout(patience_s):
                while piece := await reader.read(65536):
                    found += piece
        except OSError:  # TimeoutError is one
            pass
        finally:
            writer.close()
        return found

    async def ask(
        self,
        method: str = "GET",
        target: str = "/x",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        host: str | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """One request with a good Host, unless another is given. Status, headers and decoded body."""
        rows = {"Host": host if host is not None else f"127.0.0.1:{self.port}", **(headers or {})}
        if body:
            rows["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        request = f"{method} {target} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + body
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
        finally:
            writer.close()
        return parsed(answer)


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers by lower name, and the body as JSON where it is that."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rows = head.decode("latin-1").split("\r\n")
    pairs = (row.partition(": ") for row in rows)
    headers = {name.lower(): value for name, _, value in pairs}
    try:
        return int(first.split()[1]), headers, json.loads(body)
    except ValueError:
        return int(first.split()[1]), headers, body


@asynccontextmanager
async def _porch(
    policy: GatewayPolicy | None = None,
    *,
    host: str = "127.0.0.1",
    container: bool = False,
    idle_s: float = 5.0,
) -> AsyncIterator[Porch]:
    door = Door(policy or GatewayPolicy(), host=host, port=0, container=container)
    porch: Porch

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            name = door.check(request)
            if request.method == "OPTIONS":
                return web.Response(status=204, headers=door.cors(request))
            body = await read_body(request, LIMIT, idle_s=idle_s)
        except Trouble as trouble:
            status, headers, text = refusal(trouble, "ollama", "r")
            return web.Response(status=status, headers=headers, body=text)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            porch.faults.append(error)
            return web.Response(status=500)
        porch.heads.append(list(request.raw_headers))
        porch.came.append((name, request.method, request.rel_url.raw_path, body))
        return web.Response(body=b"{}", content_type="application/json", headers=door.cors(request))

    server = web.Server(
        handle,
        handler_cancellation=True,
        access_log=None,
        logger=wire_logger(),
        max_field_size=16 << 10,
        auto_decompress=False,
        lingering_time=0.1,
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        porch = Porch(port=runner.addresses[0][1])
        yield porch
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
def porch() -> Callable[..., Any]:
    """Makes one: ``async with porch(policy) as made``."""
    return _porch
