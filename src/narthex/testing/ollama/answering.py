"""From a request's body to the pieces of an answer: prompt, truncation, sampling, the repeat guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from narthex.testing.ollama import llama
from narthex.testing.ollama.gowords import dumps
from narthex.testing.ollama.runner import Runner
from narthex.testing.ollama.wire import Refused

_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
_NO_PICTURES = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal '
    'requests.","type":"invalid_request_error"}}'
)
_MOST_REPEATS = 30  # one more equal token in a row ends the answer
_LLAMA_NAMES = {"num_predict": "n_predict", "num_keep": "n_keep"}


@dataclass
class Piece:
    """A part of an answer: text, or at the end the figures."""

    text: str
    end: dict[str, Any] | None = None


def pieces(runner: Runner, body: Mapping[str, Any], *, chat: bool) -> AsyncIterator[Piece]:
    """The answer of a runner that is held. Without an end piece it was cut by the repeat guard."""
    if body.get("images"):
        raise Refused(400, _NO_PICTURES)
    if chat and not runner.start.template:
        return _native_chat(runner, body)
    return _completion(runner, body, chat=chat)


async def _completion(runner: Runner, body: Mapping[str, Any], *, chat: bool) -> AsyncIterator[Piece]:
    """Through ``/completion``: the prompt is made here, and equal tokens in a row end it silently."""
    prompt = await _prompt(runner, body, chat=chat)
    options = sampling(runner, body)
    fitted = await _fitted(runner, body, prompt, int(options["n_keep"]))
    text, last, repeats = "", "", 0
    async for event in llama.stream(
        runner, "/completion", {**options, "prompt": fitted, "cache_prompt": True}
    ):
        if content := str(event.get("content", "")):
            repeats = repeats + 1 if content.strip() == last else 0
            last = content.strip()
            if repeats > _MOST_REPEATS:
                runner.words.log.debug("prediction aborted, token repeat limit reached")
                return
            text += content
            yield Piece(content)
        if event.get("stop"):
            reason = "length" if event.get("stop_type") == "limit" else "stop"
            context = {}
            if not chat and not body.get("raw"):
                inner = await llama.tokens_of(runner, prompt, special=False)
                context["context"] = inner + await llama.tokens_of(runner, text, special=False)
            yield Piece("", {"done_reason": reason, **context, **_figures(runner, event.get("timings", {}))})


async def _native_chat(runner: Runner, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
    """Through llama-server's own chat, with the template of the file."""
    options = sampling(runner, body)
    if (
        options["n_predict"] == 10 * runner.start.num_ctx
        and (body.get("options") or {}).get("num_predict") == 0
    ):
        options["n_predict"] = 1  # here a 0 is passed on, and one token comes before it is looked at
    asked = {**options, "messages": await _kept(runner, body), "cache_prompt": True}
    async for event in llama.stream(runner, "/v1/chat/completions", asked):
        choice = (event.get("choices") or [{}])[0]
        if content := (choice.get("delta") or {}).get("content"):
            yield Piece(str(content))
        if "timings" in event and choice.get("finish_reason"):
            end = {"done_reason": choice["finish_reason"], **_figures(runner, event["timings"])}
            yield Piece("", end)


async def _kept(runner: Runner, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages that fit: the oldest are dropped, never the system's nor the last."""
    messages = list(body["messages"])
    while body.get("truncate") is not False and len(messages) > 1:
        said = await llama.ask(runner, "/apply-template", {"messages": messages})
        if len(await llama.tokens_of(runner, str(said["prompt"]), special=True)) < runner.start.num_ctx:
            break
        oldest = next((at for at, m in enumerate(messages[:-1]) if m.get("role") != "system"), None)
        if oldest is None:
            break
        runner.words.log.debug("truncating native chat messages", dropped=1)
        del messages[oldest]
    return messages


async def _prompt(runner: Runner, body: Mapping[str, Any], *, chat: bool) -> str:
    """The text for the model: as given, or through a chat template."""
    prompt = str(body.get("prompt") or "")
    plain = not runner.model.chat_template and not runner.start.template
    if body.get("raw") or (plain and not chat):
        return prompt
    messages = await _kept(runner, body) if chat else [{"role": "user", "content": prompt}]
    if not chat and (system := body.get("system")):
        messages = [{"role": "system", "content": system}, *messages]
    said = await llama.ask(runner, "/apply-template", {"messages": messages})
    return str(said["prompt"])


async def _fitted(runner: Runner, body: Mapping[str, Any], prompt: str, keep: int) -> str | list[int]:
    """The prompt, or where it is too long its first tokens and its end. Raises Refused."""
    manner, limit = runner.words.manner, runner.start.num_ctx
    truncates = body.get("truncate") is not False or not manner.since(0, 12, 6)
    tokens = await llama.tokens_of(runner, prompt, special=True)
    if len(tokens) < limit or not truncates:
        return prompt
    if not runner.start.wanted.shift:
        raise Refused(400, _TOO_LONG)
    keep = min(keep + 1, limit - 1)  # the first token of the model counts, too
    half = manner.since(0, 30, 9)
    new = keep + (limit - keep + 1) // 2 if half else limit - 1
    words = {"limit": new if half else limit, "prompt": len(tokens), "keep": keep, "new": new}
    runner.words.log.warn("truncating input prompt", **words)
    return tokens[:keep] + tokens[len(tokens) - (new - keep) :]


def sampling(runner: Runner, body: Mapping[str, Any]) -> dict[str, Any]:
    """Options for llama-server: defaults, the model's parameters, then the request's."""
    known = runner.start.wanted.sampling.keys() | {"stop"}
    given = {**runner.start.wanted.sampling, **runner.stored.params, **(body.get("options") or {})}
    values = {_LLAMA_NAMES.get(name, name): value for name, value in given.items() if name in known}
    most = 10 * runner.start.num_ctx
    wanted = int(values.get("n_predict", -1))
    values["n_predict"] = wanted if 0 < wanted < most else most  # 0 is dropped on the way
    form = body.get("format")
    if isinstance(form, dict):
        values["json_schema"] = form
    elif form == "json":
        values["json_schema"] = {"type": "object"}
    elif form not in (None, ""):
        raise Refused(
            500, f'invalid format: {dumps(dumps(form))}; expected "json" or a valid JSON Schema object'
        )
    return values


def _figures(runner: Runner, timings: Mapping[str, Any]) -> dict[str, int]:
    """Counts and nanoseconds: cached tokens are counted, their time is not.

    Up to 0.3 and in 0.30.0 only tokens that were processed counted.
    """
    since = runner.words.manner.since
    cached = int(timings.get("cache_n", 0))
    if not since(0, 4, 0) or (since(0, 30, 0) and not since(0, 30, 1)):
        cached = 0
    return {
        "prompt_eval_count": cached + int(timings.get("prompt_n", 0)),
        "prompt_eval_duration": round(float(timings.get("prompt_ms", 0)) * 1000) * 1000,
        "eval_count": int(timings.get("predicted_n", 0)),
        "eval_duration": round(float(timings.get("predicted_ms", 0)) * 1000) * 1000,
    }
