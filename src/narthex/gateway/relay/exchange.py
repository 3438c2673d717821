"""``Exchange``: one request at the engine, and its answer on the way to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from narthex.gateway.ask import Ask
from narthex.gateway.framing import broken_off
from narthex.gateway.relay import refusals
from narthex.gateway.relay.clock import Clock
from narthex.gateway.relay.figures import Shape, ended_well, figures_of
from narthex.gateway.relay.headers import JSON, to_engine
from narthex.gateway.relay.lines import Lines
from narthex.gateway.relay.outlet import Outlet
from narthex.gateway.relay.tapped import Tail, Tapped
from narthex.gateway.trouble import Trouble

if TYPE_CHECKING:
    from narthex.gateway.translate import Translation

Explain = Callable[[str, int | None], Awaitable[Trouble]]
"""Takes an engine's words and its status, None where no answer came or it broke off."""
WHOLE_BYTES = 1 << 20
"""A larger answer that is not streamed, as embeddings of many texts, goes through in pieces."""
_AT_ONCE_BYTES = 256 * 1024
_ERROR_BYTES = 64 * 1024
_EXPLAIN_S = 5.0
_UNKNOWN = frozenset(("connection_lost", "engine_failed", "engine_refused"))
_NO_END = "the answer ended without its end mark"


class _Lost(Exception):
    """The engine's side failed. ``words``: how; ``unreached``: before it heard anything."""

    def __init__(self, words: str, *, unreached: bool = False) -> None:
        super().__init__(words)
        self.words, self.unreached = words, unreached


class _GaveUp(_Lost):
    """The engine said so itself, with a line in its stream."""

    def __init__(self, line: bytes) -> None:
        super().__init__(refusals.error_line_words(line))
        self.line = line


class Exchange:
    """Made for each request. ``model``: what the engine calls the model. ``last``: no other request follows
    on this connection."""

    __slots__ = (
        "_ask",
        "_clock",
        "_explain",
        "_inside",
        "_last",
        "_model",
        "_outlet",
        "_shape",
        "_translation",
    )

    def __init__(
        self,
        ask: Ask,
        outlet: Outlet,
        clock: Clock,
        *,
        model: str,
        translation: Translation | None,
        explain: Explain,
        last: bool = False,
    ) -> None:
        self._ask, self._outlet, self._clock, self._last = ask, outlet, clock, last
        self._model, self._translation, self._explain = model, translation, explain
        self._shape: Shape = "whole"
        self._inside = False  # the client has a part of a line

    async def run(
        self, session: aiohttp.ClientSession, url: URL, headers: CIMultiDictProxy[str], body: bytes
    ) -> Tapped:
        """``headers``: the client's. Raises what :meth:`Relay.relay` does."""
        try:
            async with self._clock:
                answer = await self._asked(session, url, headers, body)
                try:
                    await self._passed(answer)
                finally:
                    answer.close()
        except _GaveUp as gave_up:
            await self._end_as_said(gave_up)
        except _Lost as lost:
            trouble = await self._told(lost.words, None)
            trouble.unreached = lost.unreached
            await self._end_early(trouble)
        except TimeoutError:
            await self._end_early(await self._too_late())
        except Trouble as trouble:
            await self._end_early(trouble)
        except Exception:
            if self._outlet.tapped is not None:  # no second answer may follow the half of the first
                self._outlet.hang_up()
            raise
        assert self._outlet.tapped is not None
        return self._outlet.tapped

    # the engine's side

    async def _asked(
        self, session: aiohttp.ClientSession, url: URL, headers: CIMultiDictProxy[str], body: bytes
    ) -> aiohttp.ClientResponse:
        ours = to_engine(headers)
        if self._last:
            ours["Connection"] = "close"
        data: bytes | AsyncIterator[bytes] = body
        if len(body) > _AT_ONCE_BYTES:
            ours["Content-Length"] = str(len(body))
            data = _pieces(body)
        try:
            return await session.post(url, data=data, headers=ours, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            unreached = isinstance(error, aiohttp.ClientConnectorError)
            raise _Lost(_words(error), unreached=unreached) from error

    async def _next(self, answer: aiohttp.ClientResponse) -> bytes:
        """The next bytes of the answer; b"" at its end."""
        try:
            return await answer.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Lost(_words(error)) from error

    async def _passed(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status >= 300:
            return await self._refused(answer)
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise _Lost("a web page came back: what answers there is no engine")
        self._shape = self._shape_of(answer)
        if self._shape == "whole":
            return await self._whole(answer)
        await self._streamed(answer, Lines(self._shape))

    def _shape_of(self, answer: aiohttp.ClientResponse) -> Shape:
        kind = answer.headers.get("Content-Type", "")
        if not self._ask.stream or kind.startswith(JSON):
            return "whole"
        path = self._translation.path if self._translation is not None else self._ask.path
        return "sse" if kind.startswith("text/event-stream") or path.startswith("/v1/") else "ndjson"

    def _content_type(self, stream: bool) -> str | None:
        return self._translation.content_type(stream) if self._translation is not None else None

    # an answer in one piece

    async def _whole(self, answer: aiohttp.ClientResponse) -> None:
        first_s, pieces, count = None, [], 0
        while piece := await self._next(answer):
            if first_s is None:
                first_s = self._clock.first_byte()
            pieces.append(piece)
            if answer.content.at_eof():
                break
            self._clock.moved()
            count += len(piece)
            if count > WHOLE_BYTES and self._translation is None:
                return await self._large(answer, pieces, first_s)
        data = b"".join(pieces)
        figures = figures_of(data, "whole")
        if self._translation is not None:
            data = self._translation.whole(data)
        tapped = await self._outlet.whole(answer, data, self._content_type(False))
        tapped.first_byte_s, tapped.complete = first_s, True
        tapped.take(figures)

    async def _large(
        self, answer: aiohttp.ClientResponse, pieces: list[bytes], first_s: float | None
    ) -> None:
        """Too large to be kept."""
        outlet, tail = self._outlet, Tail()
        tapped = await outlet.begin(answer, None, answer.headers.get("Content-Length"))
        tapped.first_byte_s = first_s
        tail.add(pieces[-1])
        for piece in pieces:
            await outlet.send(piece)
        pieces.clear()
        while piece := await self._next(answer):
            self._clock.moved()
            tail.add(piece)
            await outlet.send(piece)
        await outlet.finish(b"")
        tapped.complete = True
        tapped.take(figures_of(tail.end(), "whole"))

    # a stream

    async def _streamed(self, answer: aiohttp.ClientResponse, lines: Lines) -> None:
        """Nothing is sent before the first line is there: until then a failure still has its own status."""
        tail, first_s, ended = Tail(), None, False
        while not ended:
            piece = await self._next(answer)
            ended = not piece or answer.content.at_eof()
            if piece:
                first_s = self._clock.first_byte() if first_s is None else first_s
                tail.add(piece)
                piece = lines.feed(piece)
            if ended:
                piece += lines.end()
            self._inside = lines.inside
            if lines.error is not None:
                await self._pass_on(answer, piece, first_s)
                raise _GaveUp(lines.error)
            if not ended:
                await self._pass_on(answer, piece, first_s)
                self._clock.moved()
        await self._ended(answer, piece, tail.end(), first_s)

    async def _ended(
        self, answer: aiohttp.ClientResponse, last: bytes, end: bytes, first_s: float | None
    ) -> None:
        if not ended_well(end, self._shape):
            await self._pass_on(answer, last, first_s)
            raise _Lost(_NO_END)
        last = self._translated(last, end=True)
        tapped = self._outlet.tapped or await self._outlet.begin(answer, self._content_type(True))
        tapped.first_byte_s, tapped.complete = first_s, True
        tapped.take(figures_of(end, self._shape))
        await self._outlet.finish(last)

    async def _pass_on(self, answer: aiohttp.ClientResponse, piece: bytes, first_s: float | None) -> None:
        """A piece of the engine's stream, in the client's dialect."""
        piece = self._translated(piece)
        if not piece:
            return
        if self._outlet.tapped is None:
            tapped = await self._outlet.begin(answer, self._content_type(True))
            tapped.first_byte_s = first_s
        await self._outlet.send(piece)

    def _translated(self, piece: bytes, *, end: bool = False) -> bytes:
        if self._translation is None:
            return piece
        piece = self._translation.feed(piece) if piece else b""
        if end:
            piece += self._translation.end()
        if self._translation.failure:
            raise _Lost(self._translation.failure)
        return piece

    # failures

    async def _refused(self, answer: aiohttp.ClientResponse) -> None:
        status = answer.status
        if status < 400:
            raise refusals.redirected(status, self._ask.model)
        body = await self._error_body(answer)
        if not refusals.is_plain(status, body):
            raise await self._told(refusals.words_of(body), status)
        if self._translation is not None:
            raise refusals.in_own_dialect(status, body, self._ask.model)
        first_s = self._clock.first_byte()
        tapped = await self._outlet.whole(answer, body, None)
        tapped.first_byte_s, tapped.complete = first_s, True

    async def _error_body(self, answer: aiohttp.ClientResponse) -> bytes:
        """What there is of it, even where it breaks off: the status is known."""
        body = b""
        try:
            while len(body) < _ERROR_BYTES and (piece := await self._next(answer)):
                body += piece
        except _Lost:
            pass
        return body

    async def _told(self, words: str, status: int | None) -> Trouble:
        """The cause, by who knows the engine; without it where that takes too long."""
        try:
            async with asyncio.timeout(_EXPLAIN_S):
                return await self._explain(words, status)
        except TimeoutError:
            said = refusals.said(words) or "it said nothing"
            return Trouble(502, "engine_failed", f"The engine of «{self._ask.model}» failed: {said}.")

    async def _too_late(self) -> Trouble:
        """Raises ConnectionError where it was the client that took nothing."""
        if self._clock.sending:
            self._outlet.hang_up()
            raise ConnectionResetError("the client did not take its answer")
        trouble = self._clock.trouble(self._ask.model)
        known = await self._told(trouble.message, None)
        return trouble if known.cause in _UNKNOWN else known

    async def _end_early(self, trouble: Trouble) -> None:
        """Raises it while nothing was sent; else tells it in the stream. Of one JSON value that broke off a
        client learns by its connection alone."""
        if self._outlet.tapped is None:
            raise trouble
        self._outlet.tapped.trouble = trouble
        if self._shape == "whole":
            return self._outlet.hang_up()
        await self._outlet.last_words(self._apart() + broken_off(trouble, self._ask, self._model))

    async def _end_as_said(self, gave_up: _GaveUp) -> None:
        """Clients of /v1 know an error event: they get the engine's own, where something was sent before.
        Of /api they overlook it, so its words become content."""
        tapped = self._outlet.tapped
        if tapped is None or self._shape != "sse" or self._translation is not None:
            return await self._end_early(await self._told(gave_up.words, None))
        said = refusals.said(gave_up.words)
        tapped.trouble = Trouble(502, "engine_failed", f"The engine of «{self._ask.model}» gave up: {said}")
        await self._outlet.last_words(self._apart() + gave_up.line + b"\n\n")

    def _apart(self) -> bytes:
        """What ends the line or event that the client has so far."""
        if self._translation is not None:
            return b""
        ending = b"\n" if self._inside else b""
        return ending + b"\n" if self._shape == "sse" else ending


def _words(error: BaseException) -> str:
    """What a connection's error says; aiohttp's are empty at times."""
    match error:
        case aiohttp.ServerDisconnectedError():
            return "the engine closed the connection without an answer"
        case aiohttp.ConnectionTimeoutError():
            return "the engine did not take the connection in time"
        case aiohttp.ClientPayloadError():
            return "the connection to the engine broke in the middle of the answer"
    return str(error) or type(error).__name__


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for at in range(0, len(body), _AT_ONCE_BYTES):
        yield bytes(view[at : at + _AT_ONCE_BYTES])
