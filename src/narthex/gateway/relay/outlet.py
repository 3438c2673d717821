"""``Outlet``: the client's side of an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web

from narthex.gateway.relay.clock import Clock
from narthex.gateway.relay.headers import to_client
from narthex.gateway.relay.tapped import Tapped

_LAST_S = 5.0
_EVENTS = "text/event-stream"


class _Stream(web.StreamResponse):
    _send_headers_immediately = False  # aiohttp then sends them together with the first piece


class Outlet:
    """Where an answer is written. ``tapped`` is None as long as nothing was sent."""

    __slots__ = ("_clock", "_copy", "_headers", "_request", "tapped")

    def __init__(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        clock: Clock,
        copy: Callable[[bytes], None] | None = None,
    ) -> None:
        """``headers`` are added to the engine's. ``clock`` is told when it is the client that is slow.
        ``copy`` gets what is sent."""
        self._request, self._headers, self._clock, self._copy = request, headers, clock, copy
        self.tapped: Tapped | None = None

    async def whole(self, answer: aiohttp.ClientResponse, data: bytes, content_type: str | None) -> Tapped:
        """Send all of it. ``content_type`` None: the engine's."""
        headers = self._merged(answer, content_type)
        response = web.Response(status=answer.status, body=data, headers=headers)
        self.tapped = tapped = Tapped(status=answer.status, response=response, bytes_out=len(data))
        self._clock.sending = True
        if self._copy is not None:
            self._copy(data)
        await response.prepare(self._request)
        await response.write_eof()
        self._clock.sending = False
        return tapped

    async def begin(
        self, answer: aiohttp.ClientResponse, content_type: str | None, length: str | None = None
    ) -> Tapped:
        """The head of a stream; it leaves with the first piece."""
        headers = self._merged(answer, content_type)
        if headers.get("Content-Type", "").startswith(_EVENTS):
            headers["X-Accel-Buffering"] = "no"
        if length is not None:
            headers["Content-Length"] = length
        response = _Stream(status=answer.status, headers=headers)
        self.tapped = tapped = Tapped(status=answer.status, response=response)
        await response.prepare(self._request)
        return tapped

    async def send(self, piece: bytes) -> None:
        """The next bytes, at once. Raises ConnectionError where the client is gone."""
        assert self.tapped is not None
        self._clock.sending = True
        if self._copy is not None:
            self._copy(piece)
        await self.tapped.response.write(piece)
        self._clock.sending = False
        self.tapped.bytes_out += len(piece)

    async def finish(self, piece: bytes) -> None:
        """The last bytes."""
        assert self.tapped is not None
        self._clock.sending = True
        if self._copy is not None:
            self._copy(piece)
        await self.tapped.response.write_eof(piece)
        self._clock.sending = False
        self.tapped.bytes_out += len(piece)

    async def last_words(self, text: bytes) -> None:
        """After a failure, to a client that may not be listening."""
        try:
            async with asyncio.timeout(_LAST_S):
                await self.finish(text)
        except TimeoutError:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the client's connection: what it has is not whole, and there is no other way to say so."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _merged(self, answer: aiohttp.ClientResponse, content_type: str | None) -> dict[str, str]:
        headers = to_client(answer.headers)
        headers.update(self._headers)
        if content_type is not None:
            headers["Content-Type"] = content_type
        return headers
