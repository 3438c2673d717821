"""``/api/generate`` and ``/api/chat``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from narthex.testing.ollama import llama
from narthex.testing.ollama.gowords import dumps, timestamp
from narthex.testing.ollama.runner import Runner, is_oom
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.wire import LINES, Refused, answer, check_types, read_json, read_keep_alive

_TYPES: dict[str, type] = {
    "model": str, "prompt": str, "system": str, "template": str, "suffix": str, "stream": bool, "raw": bool,
    "options": dict, "messages": list, "tools": list, "truncate": bool, "shift": bool, "images": list,
}  # fmt: skip
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
_MOST_REPEATS = 30


@dataclass
class Piece:
    """A part of an answer: text, or at the end the figures."""

    text: str
    end: dict[str, Any] | None = None


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
    said = _Voice(str(body.get("model", "")), chat)
    empty = not body.get("messages") if chat else not body.get("prompt")
    stored = serving.stored(said.model)
    if empty and keep_alive == 0:
        if blob := stored.layer("model"):
            serving.scheduler.expire(str(blob))
        return answer(said.last({"done_reason": "unload"}))
    serving.check_capabilities(stored, body, chat=chat)
    async with serving.runner(stored, body, keep_alive) as runner:
        granted = time.monotonic_ns()
        if empty:
            return answer(said.last({"done_reason": "load"}))
        async with runner.slots:
            pieces = (
                _chat(runner, body)
                if chat and not runner.start.template
                else _complete(serving, runner, body)
            )
            try:
                return await _send(request, body, said, pieces, (started, granted))
            except Refused as refused:
                if is_oom(refused.text):
                    serving.scheduler.expire_all()
                raise


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
    said: _Voice,
    pieces: AsyncIterator[Piece],
    times: tuple[int, int],
) -> web.StreamResponse:
    """As lines while they come, or as one object at the end."""
    streaming = body.get("stream") is not False
    response: web.StreamResponse | None = None
    text = ""
    try:
        async for piece in pieces:
            text += piece.text
            line = said.part(piece.text)
            if piece.end is not None:
                started, granted = times
                spent = {"total_duration": time.monotonic_ns() - started, "load_duration": granted - started}
                reason, context = piece.end.pop("done_reason"), piece.end.pop("context", None)
                figures = {"done_reason": reason, "context": context, **spent, **piece.end}
                line = said.last(figures, "" if streaming else text)
                if not streaming:
                    return answer(line)
            if streaming:
                if response is None:
                    response = web.StreamResponse(headers={"Content-Type": LINES})
                    await response.prepare(request)
                await response.write(dumps(line).encode() + b"\n")
    except Refused as refused:
        if response is None:
            raise
        await response.write(dumps({"error": refused.text}).encode() + b"\n")
        if is_oom(refused.text):
            raise
    if response is None:  # ended without a last line: nothing was said, or the repeat guard
        return answer(said.part(text)) if not streaming else web.Response(headers={"Content-Type": LINES})
    return response


async def _complete(serving: Serving, runner: Runner, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
    """Through ``/completion``: the prompt is made here, and equal tokens in a row end it silently."""
    prompt = await _prompt(runner, body)
    sampling = serving.sampling(runner, body)
    tokens = await llama.tokens_of(runner, prompt, special=True)
    limit = runner.start.num_ctx
    fitted: str | list[int] = prompt
    if len(tokens) >= limit and body.get("truncate") is not False:
        if not runner.start.wanted.shift:
            raise Refused(400, _TOO_LONG)
        fitted = tokens = _truncate(serving, tokens, limit, int(sampling["n_keep"]))
    text, last, repeats = "", "", 0
    async for event in llama.stream(
        runner, "/completion", {**sampling, "prompt": fitted, "cache_prompt": True}
    ):
        content = str(event.get("content", ""))
        if content:
            repeats = repeats + 1 if content.strip() == last else 0
            last = content.strip()
            if repeats > _MOST_REPEATS:
                serving.log.debug("prediction aborted, token repeat limit reached")
                return
            text += content
            yield Piece(content)
        if event.get("stop"):
            reason = "length" if event.get("stop_type") == "limit" else "stop"
            end = {"done_reason": reason, **figures(event.get("timings", {}))}
            if not body.get("raw") and "messages" not in body:
                inner = await llama.tokens_of(runner, prompt, special=False)
                end["context"] = inner + await llama.tokens_of(runner, text, special=False)
            yield Piece("", end)


async def _chat(runner: Runner, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
    """Through llama-server's own chat, with the template of the file."""
    from narthex.testing.ollama.serving import llama_options

    sampling = llama_options(runner, body, chat=True)
    messages = list(body["messages"])
    asked = {**sampling, "messages": messages, "cache_prompt": True}
    reason = "stop"
    async for event in llama.stream(runner, "/v1/chat/completions", asked):
        choice = (event.get("choices") or [{}])[0]
        if content := (choice.get("delta") or {}).get("content"):
            yield Piece(str(content))
        reason = choice.get("finish_reason") or reason
        if "timings" in event and choice.get("finish_reason"):
            yield Piece("", {"done_reason": reason, **figures(event["timings"])})


async def _prompt(runner: Runner, body: Mapping[str, Any]) -> str:
    """The text for the model: as given, or through a chat template."""
    prompt = str(body.get("prompt") or "")
    native = bool(runner.model.chat_template)
    if body.get("raw") or ("messages" not in body and not native and not runner.start.template):
        return prompt
    messages = body.get("messages") or [{"role": "user", "content": prompt}]
    if system := body.get("system"):
        messages = [{"role": "system", "content": system}, *messages]
    said = await llama.ask(runner, "/apply-template", {"messages": messages})
    return str(said["prompt"])


def _truncate(serving: Serving, tokens: list[int], limit: int, keep: int) -> list[int]:
    """The first ``keep`` tokens and the last ones, to about half of the context."""
    keep = min(keep + 1, limit - 1)
    new = keep + (limit - keep + 1) // 2
    serving.log.warn("truncating input prompt", limit=new, prompt=len(tokens), keep=keep, new=new)
    return tokens[:keep] + tokens[len(tokens) - (new - keep) :]


def figures(timings: Mapping[str, Any]) -> dict[str, int]:
    """Counts and nanoseconds of llama-server's timings: cached tokens are counted, their time is not."""
    return {
        "prompt_eval_count": int(timings.get("cache_n", 0)) + int(timings.get("prompt_n", 0)),
        "prompt_eval_duration": round(float(timings.get("prompt_ms", 0)) * 1000) * 1000,
        "eval_count": int(timings.get("predicted_n", 0)),
        "eval_duration": round(float(timings.get("predicted_ms", 0)) * 1000) * 1000,
    }
