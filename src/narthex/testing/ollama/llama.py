"""Asking the llama-server behind a runner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from narthex.testing.ollama.runner import Runner
from narthex.testing.ollama.wire import Refused


async def ask(runner: Runner, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One question, one JSON answer. Raises Refused with llama-server's own body."""
    try:
        async with runner.session.post(runner.url + path, json=body) as reply:
            text = await reply.text()
    except (aiohttp.ClientError, OSError) as error:
        raise _lost(runner, error) from None
    if reply.status != 200:
        raise Refused(reply.status, text)
    said = json.loads(text)
    return said if isinstance(said, dict) else {"data": said}


async def stream(runner: Runner, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer. Raises Refused for an error and for an early end."""
    ended = False
    try:
        async with runner.session.post(runner.url + path, json={**body, "stream": True}) as reply:
            if reply.status != 200:
                raise Refused(reply.status, await reply.text())
            async for line in reply.content:
                name, _, text = line.decode("utf-8", "replace").partition(": ")
                if name not in ("data", "error"):
                    continue
                if text.strip() == "[DONE]":
                    ended = True
                    continue
                event = json.loads(text)
                if name == "error" or "error" in event:
                    raise Refused(500, runner.words.lost(runner.url, _message(event)))
                ended = ended or bool(event.get("stop"))
                yield event
    except (aiohttp.ClientError, OSError) as error:
        raise _lost(runner, error) from None
    if not ended:
        raise Refused(500, runner.words.lost(runner.url, "unexpected EOF"))


async def tokens_of(runner: Runner, text: str, *, special: bool) -> list[int]:
    """The text as token ids; ``special`` puts the first token before it."""
    said = await ask(runner, "/tokenize", {"content": text, "add_special": special, "parse_special": True})
    return [int(token) for token in said["tokens"]]


def message_of(text: str) -> str:
    """The message inside llama-server's error body; the body itself where it is something else."""
    try:
        return _message(json.loads(text))
    except (ValueError, AttributeError):
        return text


def _message(event: Mapping[str, Any]) -> str:
    error = event.get("error", event)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _lost(runner: Runner, error: Exception) -> Refused:
    broken = isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError)
    return Refused(500, runner.words.lost(runner.url, "unexpected EOF" if broken else str(error)))
