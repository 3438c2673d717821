"""An aiohttp handler served on loopback by a loop in a thread, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from narthex.gateway.trouble import Trouble

Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]
_T = TypeVar("_T")


class GatewayLoop:
    """A context manager. ``routes`` is made on the loop; a path that is not there is a 404. ``requests``
    keeps method and path of each question."""

    def __init__(self, routes: Callable[[], dict[tuple[str, str], Handler]]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}  # of each answer
        self.url = ""
        self._make, self._routes = routes, dict[tuple[str, str], Handler]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.ServerRunner | None = None

    def __enter__(self) -> GatewayLoop:
        self._thread.start()
        self.run(self._start)
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, do: Callable[[], Awaitable[_T]]) -> _T:
        """Do something on the loop, and wait for it."""

        async def done() -> _T:
            return await do()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(30)

    def end(self) -> None:
        """Nothing answers any more."""
        self.run(self._end)

    async def _start(self) -> None:
        self._routes = self._make()
        server = web.Server(self._handle, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _end(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.requests.append((request.method, path))
        found = self._routes.get((request.method, path))
        if found is None:
            return web.Response(status=404, headers=self.headers)
        try:
            return await found(request, "", "")
        except Trouble as trouble:
            error = {"error": {"message": trouble.text, "type": trouble.cause}}
            return web.json_response(error, status=trouble.status, headers=self.headers)
