"""Asking the llama-server behind a runner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from narthex.testing.ollama.runner import Runner
from narthex.testing.ollama.wire import Refused

_LOST = "an error was encountered while running the model: "
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_read=None)


async def ask(runner: Runner, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One question, one JSON answer."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_NO_LIMIT) as session,
            session.post(runner.url + path, json=body) as reply,
        ):
            text = await reply.text()
            if reply.status != 200:
                raise Refused(reply.status, text)
            return dict(json.loads(text))
    except (aiohttp.ClientError, OSError) as error:
        raise Refused(500, _LOST + _words(error)) from None


async def stream(runner: Runner, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer. Raises Refused for an error and for an early end."""
    ended = False
    try:
        async with (
            aiohttp.ClientSession(timeout=_NO_LIMIT, read_bufsize=2**22) as session,
            session.post(runner.url + path, json={**body, "stream": True}) as reply,
        ):
            if reply.status != 200:
                raise Refused(reply.status, await reply.text())
            async for line in reply.content:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    ended = ended or bool(event.get("stop"))
                    yield event
                elif line.startswith(b"error: "):
                    raise Refused(500, _LOST + line[7:].decode("utf-8", "replace").strip())
    except (aiohttp.ClientError, OSError) as error:
        raise Refused(500, _LOST + _words(error)) from None
    if not ended:
        raise Refused(500, _LOST + "unexpected EOF")


async def tokens_of(runner: Runner, text: str, *, special: bool) -> list[int]:
    """The text as token ids."""
    said = await ask(runner, "/tokenize", {"content": text, "add_special": special, "parse_special": True})
    return [int(token) for token in said["tokens"]]


def _words(error: Exception) -> str:
    return "unexpected EOF" if isinstance(error, aiohttp.ClientPayloadError | OSError) else str(error)
