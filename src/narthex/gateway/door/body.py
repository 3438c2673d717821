"""Reads a request's body, within its limit."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web

from narthex.gateway.trouble import Trouble
from narthex.units import format_duration, format_size

IDLE_S = 30.0
"""A body of which nothing came for so long is given up: its connection is one of few."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.BaseRequest, limit: int, *, idle_s: float = IDLE_S) -> bytes:
    """All of it. What its Content-Length says is only a reason to refuse it early.

    Raises Trouble 413 above ``limit`` bytes, 408 where it stops coming, 415 where it is compressed, 400 where
    it breaks off or its chunks are none.
    """
    coding = request.headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise Trouble(415, "compressed_body", "The request's body is compressed.", remedy="Send it as it is.")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content = request.content
    try:
        if content.is_eof():  # it came with its head
            data = content.read_nowait()
        else:
            _go_on(request)
            data = await _read(content, limit, idle_s)
    except TimeoutError:
        words = f"The rest of the request did not come within {format_duration(idle_s)}."
        raise Trouble(408, "body_stopped", words) from None
    except web.RequestPayloadError as error:
        raise Trouble(
            400, "bad_body", "The request's body broke off, or its chunks are malformed."
        ) from error
    if len(data) > limit:
        raise _too_large(limit)
    return data


async def _read(content: StreamReader, limit: int, idle_s: float) -> bytes:
    pieces, count, loop = [], 0, asyncio.get_running_loop()
    async with asyncio.timeout(idle_s) as patience:
        while piece := await content.readany():
            pieces.append(piece)
            count += len(piece)
            if count > limit:
                raise _too_large(limit)
            if content.at_eof():
                break
            patience.reschedule(loop.time() + idle_s)
    return b"".join(pieces)


def _go_on(request: web.BaseRequest) -> None:
    """To a client that asks first whether its body is wanted."""
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)


def _too_large(limit: int) -> Trouble:
    return Trouble(
        413,
        "body_too_large",
        f"The request is larger than {format_size(limit)}.",
        remedy="Make it smaller, or set body in [gateway] of narthex.toml.",
    )
