"""A relay between a real client and an engine that does, byte by byte, what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from narthex.gateway.ask import Ask
from narthex.gateway.framing import refusal
from narthex.gateway.offer import Upstream
from narthex.gateway.relay.relay import Relay
from narthex.gateway.relay.tapped import Tapped
from narthex.gateway.relay.timeouts import Timeouts
from narthex.gateway.translate import Translation
from narthex.gateway.trouble import Trouble

PATIENCE_S = 10.0
JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
KINDS = {
    "/api/chat": "chat",
    "/api/generate": "generate",
    "/api/embed": "embed",
    "/v1/chat/completions": "chat",
    "/v1/embeddings": "embed",
    "/v1/responses": "responses",
}


class Line:
    """The engine's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.head, self.body = "", b""

    async def receive(self) -> None:
        """The whole request."""
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(self.headers().get("content-length", "0"))
        self.body = await self._reader.readexactly(length)

    def headers(self) -> dict[str, str]:
        """By their names in lower case."""
        rows = [row.partition(":") for row in self.head.split("\r\n")[1:] if row]
        return {name.lower(): value.strip() for name, _, value in rows}

    async def write(self, data: bytes) -> None:
        """These bytes, at once."""
        self._writer.write(data)
        await self._writer.drain()

    async def whole(self, body: bytes, *, status: int = 200, kind: str = JSON, more: str = "") -> None:
        """One answer with its length."""
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        await self.write(head.encode() + body)

    async def begin(self, kind: str) -> None:
        """The head of a stream."""
        await self.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        """A piece of a stream; an empty one ends it."""
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    def reset(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()

    async def peer_left(self) -> None:
        """Until the relay has closed the connection."""
        try:
            while await self._reader.read(4096):
                pass
        except ConnectionError:
            pass


Script = Callable[[Line], Awaitable[None]]


@dataclass
class Rig:
    """``url`` is the front's."""

    url: str
    client: aiohttp.ClientSession
    relay: Relay
    seen: list[Line] = field(default_factory=list)
    tapped: list[Tapped] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    explained: list[tuple[str, int | None]] = field(default_factory=list)
    left: list[BaseException] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, path: str = "/api/chat", *, stream: bool = True, **headers: str) -> Any:
        """Post a request."""
        return self.client.post(self.url + path, json={"model": "m", "stream": stream}, headers=headers)

    async def answer(self, path: str = "/api/chat", *, stream: bool = True) -> tuple[int, bytes]:
        """Status and the whole body."""
        async with self.ask(path, stream=stream) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def _rig(
    script: Script,
    timeouts: Timeouts | None = None,
    translation: Callable[[], Translation] | None = None,
    explained: Trouble | None = None,
    engine_url: str | None = None,
) -> AsyncIterator[Rig]:
    rig: Rig

    async def serve_engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        try:
            while True:
                await line.receive()
                rig.seen.append(line)
                await script(line)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def explain(words: str, status: int | None) -> Trouble:
        rig.explained.append((words, status))
        return explained or Trouble(
            status if status and status >= 500 else 502, "engine_failed", f"explained: {words}"
        )

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        path, fields = request.path, json.loads(body)
        api: Any = "openai" if path.startswith("/v1/") else "ollama"
        kind: Any = KINDS[path]
        ask = Ask(
            id="r1",
            api=api,
            kind=kind,
            path=path,
            model="asked",
            stream=fields.get("stream", api == "ollama"),
            body=body,
            fields={},
        )
        try:
            tapped = await rig.relay.relay(
                request,
                ask,
                Upstream(url=engine_url or "", dialect="ollama", model="m"),
                body,
                headers={"X-Narthex-Model": "m"},
                translation=translation() if translation else None,
                explain=explain,
            )
        except Trouble as trouble:
            rig.troubles.append(trouble)
            status, headers, text = refusal(trouble, api, "r1")
            return web.Response(status=status, headers=headers, body=text)
        except (asyncio.CancelledError, ConnectionError) as error:
            rig.left.append(error)
            raise
        finally:
            rig.over.set()
        rig.tapped.append(tapped)
        return tapped.response

    engine = await asyncio.start_server(serve_engine, "127.0.0.1", 0)
    engine_url = engine_url or f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    relay = Relay(timeouts or Timeouts(first_byte_s=PATIENCE_S, between_s=PATIENCE_S))
    await relay.start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            rig = Rig(url=f"http://127.0.0.1:{runner.addresses[0][1]}", client=client, relay=relay)
            yield rig
    finally:
        await relay.close()
        await runner.cleanup()
        engine.close()


RigMaker = Callable[..., Any]


@pytest.fixture
def rig() -> RigMaker:
    """Makes one: ``async with rig(script) as made``."""
    return _rig


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Runs a test's coroutine, on both loops."""

    def go(main: Any) -> None:
        import uvloop

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, 4 * PATIENCE_S))

    return go
