"""``/v1``: models, chat completions and completions, mapped onto the server's own answers."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from narthex.testing.ollama.answering import Piece, pieces
from narthex.testing.ollama.gowords import NS, dumps
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.store import Stored
from narthex.testing.ollama.wire import Refused, read_json

_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
_OPTIONS = {
    "max_tokens": "num_predict",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}


async def models(serving: Serving, request: web.Request) -> web.Response:
    """``GET /v1/models``; ``data`` is null where there are none."""
    rows = [_row(stored, stored.name.short) for stored in serving.store.models()]
    return _json({"object": "list", "data": rows or None})


async def model(serving: Serving, request: web.Request) -> web.Response:
    """``GET /v1/models/NAME``."""
    name = request.path.removeprefix("/v1/models/")
    try:
        return _json(_row(serving.stored(name), name))
    except Refused as refused:
        return _refusal(refused)


async def chat_completions(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /v1/chat/completions``."""
    return await _run(serving, request, chat=True)


async def completions(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /v1/completions``."""
    return await _run(serving, request, chat=False)


async def _run(serving: Serving, request: web.Request, *, chat: bool) -> web.StreamResponse:
    try:
        body = await read_json(request)
        if chat and not body.get("messages"):
            raise Refused(400, "[] is too short - 'messages'")
        stored = serving.stored(str(body.get("model", "")))
        asked = _translated(body)
        serving.check_capabilities(stored, asked, chat=chat)
        async with serving.runner(stored, asked, None) as runner, runner.slots:
            said = pieces(runner, asked, chat=chat)
            voice = _Voice(str(body["model"]), chat)
            if body.get("stream"):
                return await _stream(request, body, voice, said)
            return await _whole(voice, said)
    except Refused as refused:
        return _refusal(refused)


class _Voice:
    """The objects of one answer. Ids are drawn from 999 numbers, so they are not unique."""

    def __init__(self, model: str, chat: bool) -> None:
        self.model, self.chat = model, chat
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{random.randrange(999)}"
        self.created = int(time.time())

    def object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One object of the answer."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": "fp_ollama", "choices": choices, **more}


async def _whole(voice: _Voice, said: AsyncIterator[Piece]) -> web.Response:
    text, end = "", None
    async for piece in said:
        text, end = text + piece.text, piece.end
    words: dict[str, Any] = (
        {"message": {"role": "assistant", "content": text}} if voice.chat else {"text": text}
    )
    reason = {"finish_reason": end["done_reason"] if end else None}
    choice = {"index": 0, **words, **reason} if voice.chat else {**words, "index": 0, **reason}
    kind = "chat.completion" if voice.chat else "text_completion"
    return _json(voice.object(kind, [choice], usage=_usage(end)))


async def _stream(
    request: web.Request, body: dict[str, Any], voice: _Voice, said: AsyncIterator[Piece]
) -> web.StreamResponse:
    """Server-sent events. An error in the middle is lost: an empty piece, and no end."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    kind = "chat.completion.chunk" if voice.chat else "text_completion"
    end: dict[str, Any] | None = None
    role = {"role": "assistant"}
    try:
        async for piece in said:
            if not response.prepared:
                await response.prepare(request)
                request["streaming"] = True
            end = piece.end
            reason = {"finish_reason": end["done_reason"] if end else None}
            words: dict[str, Any] = {"text": piece.text}
            if voice.chat:
                words = {"delta": {**role, "content": piece.text} if end is None else {}}
            role = {}
            await _event(response, dumps(voice.object(kind, [{"index": 0, **words, **reason}])))
    except Refused:
        if not response.prepared:
            raise
        voice.model = ""
        lost = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
        await _event(response, dumps(voice.object(kind, [lost])))
        return response
    if (body.get("stream_options") or {}).get("include_usage"):
        await _event(response, dumps(voice.object(kind, [], usage=_usage(end))))
    await _event(response, "[DONE]")
    return response


async def _event(response: web.StreamResponse, text: str) -> None:
    await response.write(f"data: {text}\n\n".encode())


def _translated(body: dict[str, Any]) -> dict[str, Any]:
    """In the words of ``/api``. What is left out of temperature and top_p is 1, whatever the model says."""
    options: dict[str, Any] = {"temperature": body.get("temperature", 1.0), "top_p": body.get("top_p", 1.0)}
    options |= {ours: body[theirs] for theirs, ours in _OPTIONS.items() if body.get(theirs) is not None}
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    kept: dict[str, Any] = {
        name: body[name] for name in ("model", "messages", "prompt", "tools") if name in body
    }
    return {**kept, "options": options}


def _usage(end: dict[str, Any] | None) -> dict[str, int]:
    prompt, answered = (end or {}).get("prompt_eval_count", 0), (end or {}).get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


def _row(stored: Stored, name: str) -> dict[str, Any]:
    created = stored.modified_ns // NS
    return {"id": name, "object": "model", "created": created, "owned_by": stored.name.namespace}


def _json(value: Any, status: int = 200) -> web.Response:
    text = dumps(value) + "\n"
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "application/json"})


def _refusal(refused: Refused) -> web.Response:
    kind = _KINDS.get(refused.status, "api_error")
    words = {"message": refused.text, "type": kind, "param": None, "code": None}
    return _json({"error": words}, refused.status)
