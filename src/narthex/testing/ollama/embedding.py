"""``/api/embed`` and the older ``/api/embeddings``."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from narthex.testing.ollama import llama
from narthex.testing.ollama.runner import Runner
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.wire import Refused, answer, check_types, read_json, read_keep_alive

_MISSING = 'model "{}" not found, try pulling it first'


async def embed(serving: Serving, request: web.Request) -> web.Response:
    """``POST /api/embed``: a text or a list of texts."""
    started = time.monotonic_ns()
    body = await read_json(request)
    check_types(body, "EmbedRequest", {"model": str, "options": dict, "truncate": bool})
    given = body.get("input") or []
    texts = [given] if isinstance(given, str) else list(given)
    keep_alive = read_keep_alive(body)
    stored = serving.stored(str(body.get("model", "")), _MISSING)
    async with serving.runner(stored, body, keep_alive) as runner:
        loaded = time.monotonic_ns() - started
        vectors, count = [], 0
        for text in texts:
            tokens = await _fitted(runner, text, body.get("truncate") is not False)
            count += len(tokens)
            vectors.append(await _vector(runner, tokens))
    said: dict[str, Any] = {"model": body["model"], "embeddings": vectors}
    said |= {"total_duration": time.monotonic_ns() - started, "load_duration": loaded}
    return answer({**said, "prompt_eval_count": count} if count else said)


async def embeddings(serving: Serving, request: web.Request) -> web.Response:
    """``POST /api/embeddings``: one text; any failure is a 500."""
    body = await read_json(request)
    check_types(body, "EmbeddingRequest", {"model": str, "prompt": str, "options": dict})
    keep_alive = read_keep_alive(body)
    stored = serving.stored(str(body.get("model", "")), _MISSING)
    async with serving.runner(stored, body, keep_alive) as runner:
        if not body.get("prompt"):
            return answer({"embedding": []})
        try:
            return answer({"embedding": await _vector(runner, str(body["prompt"]))})
        except Refused as refused:
            raise Refused(500, refused.text) from None


async def _fitted(runner: Runner, text: str, truncates: bool) -> list[int]:
    tokens = await llama.tokens_of(runner, text, special=True)
    if len(tokens) > runner.start.num_ctx:
        if not truncates:
            raise Refused(400, "the input length exceeds the context length")
        tokens = tokens[: runner.start.num_ctx]
    return tokens


async def _vector(runner: Runner, content: str | list[int]) -> list[float]:
    try:
        said = await llama.ask(runner, "/embedding", {"content": content})
    except Refused as refused:
        raise Refused(refused.status, llama.message_of(refused.text)) from None
    first = said["data"][0] if "data" in said else said
    vector = first["embedding"]
    return list(vector[0] if isinstance(vector[0], list) else vector)
