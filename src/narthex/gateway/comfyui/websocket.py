"""A WebSocket carried through: frames of both sides, and the code with which one of them ends it.

Each side answers pings by itself. We ping both, so that a client whose ComfyUI went away hears of it:
OpenWebUI waits for its image without any limit.
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMessage, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

BEAT_S = 120.0  # between two pings. Half of it without an answer ends the socket: ComfyUI may be silent
# for seconds while Python loads a model's file, and must not lose its clients by that
CLOSE_S = 2.0  # for the other side's last word

Side = web.WebSocketResponse | ClientWebSocketResponse
Last = tuple[int, bytes]
"""A close code, and the words that came with it."""


async def carry(
    session: aiohttp.ClientSession,
    request: web.BaseRequest,
    url: URL,
    headers: CIMultiDict[str],
    *,
    beat_s: float = BEAT_S,
) -> web.StreamResponse:
    """Until one side ends it. Raises aiohttp's errors while nothing was answered to the client."""
    asked = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    upstream = await session.ws_connect(
        url,
        headers=headers,
        protocols=[word for word in asked if word],
        max_msg_size=0,
        autoclose=False,
        heartbeat=beat_s,
        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
    )
    try:
        chosen = (upstream.protocol,) if upstream.protocol else ()
        client = web.WebSocketResponse(
            protocols=chosen,
            max_msg_size=0,
            autoclose=False,
            heartbeat=beat_s,
            timeout=CLOSE_S,
            compress=False,
        )
        await client.prepare(request)
        await _between(client, upstream)
    finally:
        await upstream.close(code=WSCloseCode.GOING_AWAY)
    return client


async def _between(client: Side, upstream: Side) -> None:
    loop = asyncio.get_running_loop()
    pumps = [loop.create_task(_pump(client, upstream)), loop.create_task(_pump(upstream, client))]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    code, words = done.pop().result()
    await upstream.close(code=code, message=words)  # first: who ended it may be gone after our answer
    await client.close(code=code, message=words)


async def _pump(source: Side, target: Side) -> Last:
    """Frames of one side to the other, until it says that it ends."""
    while True:
        message = await source.receive()
        try:
            if message.type is WSMsgType.TEXT:
                await target.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await target.send_bytes(message.data)
            else:
                return _last(message)
        except ConnectionError:  # the other one is gone; its own pump says so
            return WSCloseCode.GOING_AWAY, b""


def _last(message: WSMessage) -> Last:
    """A connection that broke has no code of its own that may be sent (RFC 6455, 7.4.1)."""
    if message.type is not WSMsgType.CLOSE:
        return WSCloseCode.INTERNAL_ERROR, b"the connection ended early"
    words = message.extra or ""
    return message.data or WSCloseCode.OK, words.encode()
