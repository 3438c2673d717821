"""A small server before an engine that does nothing but translate, for real clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

from narthex.gateway.ask import Ask
from narthex.gateway.asking import edited, read_ask
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.translate import error_words, translation_for
from narthex.gateway.trouble import Trouble

CUT = 7  # bytes a piece: no line and hardly a letter comes whole


def ask_of(path: str, **body: Any) -> Ask:
    """A request as the gateway reads it."""
    data = json.dumps({"model": "m", **body}).encode()
    return read_ask(path, {}, data, request_id="1", client="", now=0.0, task_header="T")


@contextmanager
def front(offer: Offer, upstream: Upstream, *, keep_alive_s: float = 300.0) -> Iterator[str]:
    """Its URL. Runs in a thread of its own, so that clients may block."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[str] = []

    async def serve() -> None:
        front = _Front(offer, upstream, keep_alive_s)
        async with aiohttp.ClientSession() as front.session:
            runner = web.ServerRunner(web.Server(front.handle))
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            found.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            ready.set()
            await over.wait()
            await runner.cleanup()

    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class _Front:
    session: aiohttp.ClientSession

    def __init__(self, offer: Offer, upstream: Upstream, keep_alive_s: float) -> None:
        self._offer, self._upstream, self._keep_alive_s = offer, upstream, keep_alive_s

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Trouble as trouble:
            return _refusal(request.path, trouble.status, trouble.text)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        ask = read_ask(
            request.path,
            request.headers,
            await request.read(),
            request_id="1",
            client="",
            now=asyncio.get_running_loop().time(),
            task_header="T",
        )
        keep = self._keep_alive_s
        translation = translation_for(ask, self._offer, self._upstream, keep_alive_s=keep)
        path = translation.path if translation else ask.path
        body = (
            translation.body if translation else edited(ask, self._offer, self._upstream, keep_alive_s=keep)
        )
        headers = {"Content-Type": "application/json"}
        async with self.session.post(self._upstream.url + path, data=body, headers=headers) as answer:
            if answer.status != 200:
                return _refusal(request.path, answer.status, error_words(await answer.read()))
            if not ask.stream:
                data = await answer.read()
                kind = translation.content_type(False) if translation else "application/json"
                data = translation.whole(data) if translation else data
                return web.Response(body=data, headers={"Content-Type": kind})
            assert translation is not None
            response = web.StreamResponse(headers={"Content-Type": translation.content_type(True)})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                for at in range(0, len(chunk), CUT):
                    await response.write(translation.feed(chunk[at : at + CUT]))
            await response.write(translation.end())
            return response


def _refusal(path: str, status: int, words: str) -> web.Response:
    error: Any = {"message": words} if path.startswith("/v1/") else words
    return web.json_response({"error": error}, status=status)
