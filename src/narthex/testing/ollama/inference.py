"""``/api/generate`` and ``/api/chat``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from narthex.testing.ollama.answering import Piece, pieces
from narthex.testing.ollama.gowords import dumps, timestamp
from narthex.testing.ollama.runner import is_oom
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.wire import LINES, Refused, answer, check_types, read_json, read_keep_alive

_TYPES: dict[str, type] = {
    "model": str,
    "prompt": str,
    "system": str,
    "template": str,
    "suffix": str,
    "stream": bool,
    "raw": bool,
    "options": dict,
    "messages": list,
    "tools": list,
    "truncate": bool,
    "shift": bool,
    "images": list,
}


async def generate(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /api/generate``."""
    return await _run(serving, request, "GenerateRequest", chat=False)


async def chat(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /api/chat``."""
    return await _run(serving, request, "ChatRequest", chat=True)


async def _run(serving: Serving, request: web.Request, struct: str, *, chat: bool) -> web.StreamResponse:
    started = time.monotonic_ns()
    body = await read_json(request)
    check_types(body, struct, _TYPES)
    keep_alive = read_keep_alive(body)
    voice = _Voice(str(body.get("model", "")), chat)
    empty = not body.get("messages" if chat else "prompt") and not body.get("images")
    stored = serving.stored(voice.model)
    if empty and keep_alive == 0 and serving.manner.since(0, 3, 11):
        serving.scheduler.expire(str(stored.layer("model")))
        return answer(voice.last({"done_reason": "unload"}))
    serving.check_capabilities(stored, body, chat=chat)
    async with serving.runner(stored, body, keep_alive) as runner:
        granted = time.monotonic_ns()
        if empty:
            return answer(voice.last({"done_reason": "load"}))
        async with runner.slots:
            said = pieces(runner, body, chat=chat)
            try:
                return await _send(request, body, voice, said, times=(started, granted))
            except Refused as refused:
                if is_oom(refused.text):
                    serving.scheduler.expire_all()
                if not request.get("streaming"):
                    raise
    return web.Response()  # the error was the last line of a stream


class _Voice:
    """How the parts of an answer look: ``response`` or ``message``."""

    def __init__(self, model: str, chat: bool) -> None:
        self.model, self.chat = model, chat

    def part(self, text: str, *, done: bool = False) -> dict[str, Any]:
        """One line of a stream."""
        words = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
        return {"model": self.model, "created_at": timestamp(), **words, "done": done}

    def last(self, figures: Mapping[str, Any], text: str = "") -> dict[str, Any]:
        """The line that ends an answer; figures that are zero are left out."""
        return {**self.part(text, done=True), **{key: value for key, value in figures.items() if value}}


async def _send(
    request: web.Request,
    body: Mapping[str, Any],
    voice: _Voice,
    said: AsyncIterator[Piece],
    *,
    times: tuple[int, int],
) -> web.StreamResponse:
    """As lines while they come, or as one object at the end."""
    if body.get("stream") is False:
        return await _whole(voice, said, times)
    response = web.StreamResponse(headers={"Content-Type": LINES})
    try:
        async for piece in said:
            if not response.prepared:
                await response.prepare(request)
                request["streaming"] = True
            line = voice.part(piece.text) if piece.end is None else voice.last(_in_order(piece.end, times))
            await response.write(dumps(line).encode() + b"\n")
    except Refused as refused:
        if response.prepared:
            await response.write(dumps({"error": refused.text}).encode() + b"\n")
            await response.write_eof()
        raise
    return response


async def _whole(voice: _Voice, said: AsyncIterator[Piece], times: tuple[int, int]) -> web.Response:
    """Without an end piece the repeat guard cut it: then ``done`` is false and there are no figures."""
    text = ""
    async for piece in said:
        text += piece.text
        if piece.end is not None:
            return answer(voice.last(_in_order(piece.end, times), text))
    return answer(voice.part(text))


def _in_order(end: Mapping[str, Any], times: tuple[int, int]) -> dict[str, Any]:
    """As Ollama orders them; loading includes waiting for other loads."""
    started, granted = times
    spent = {"total_duration": time.monotonic_ns() - started, "load_duration": granted - started}
    first = {name: end[name] for name in ("done_reason", "context") if name in end}
    return {**first, **spent, **{name: value for name, value in end.items() if name not in first}}
