"""``Relay``: the connections to the engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from yarl import URL

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Upstream
from narthex.gateway.relay.clock import Clock
from narthex.gateway.relay.exchange import Exchange, Explain
from narthex.gateway.relay.outlet import Outlet
from narthex.gateway.relay.tapped import Tapped
from narthex.gateway.relay.timeouts import Timeouts

if TYPE_CHECKING:
    from narthex.gateway.translate import Translation

IDLE_S = 3.0
"""llama-server closes a connection that was idle for 5 s, and after a stream at once, though it says that it
keeps it. One that is reused in that moment breaks, and a generation is never asked for twice; a new
connection on loopback costs 0.1 ms."""
_LINE_BYTES = 64 * 1024


class Relay:
    """One gateway's. ``timeouts`` may be replaced at any time; requests under way keep theirs, and that of
    connecting stays until the next start."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool. It follows no redirect, keeps no cookie, and takes no proxy from the environment."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect_s),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            trust_env=False,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
        )

    async def close(self) -> None:
        """Close all connections, those of answers under way too."""
        if self._session is not None:
            await self._session.close()

    async def relay(
        self,
        request: web.BaseRequest,
        ask: Ask,
        upstream: Upstream,
        body: bytes,
        *,
        headers: Mapping[str, str],
        translation: Translation | None,
        explain: Explain,
        copy: Callable[[bytes], None] | None = None,
    ) -> Tapped:
        """Ask the engine and write its whole answer to the client, ``headers`` added. ``copy`` gets what the
        client gets.

        Raises Trouble only while nothing was sent; what fails later is told in the stream, and stands in
        :attr:`Tapped.trouble`. Raises ConnectionError where the client is gone. Whichever way it ends, and
        when it is cancelled, the connection to the engine is free or closed by then.
        """
        assert self._session is not None, "the relay was not started"
        clock = Clock(self.timeouts)
        exchange = Exchange(
            ask,
            Outlet(request, headers, clock, copy),
            clock,
            model=upstream.model or ask.model,
            translation=translation,
            explain=explain,
            last=ask.stream and upstream.dialect == "llama-server",
        )
        path = translation.path if translation is not None else ask.path
        return await exchange.run(self._session, _url(upstream.url, path), request.headers, body)


@lru_cache(maxsize=256)
def _url(base: str, path: str) -> URL:
    return URL(base + path)
