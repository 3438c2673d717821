"""``Piece``: a part of an answer of llama-server, from either of its dialects."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.gateway.translate.upstream_words import words_in


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class CallPart(msgspec.Struct):
    """The beginning, the whole or a further part of a tool call."""

    function: _Function
    index: int | None = None
    id: str | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[_Token] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Words(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPart] | None = None


class _Choice(msgspec.Struct):
    delta: _Words | None = None
    message: _Words | None = None
    text: str | None = None  # of /v1/completions
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


class _Infill(msgspec.Struct):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    timings: _Timings | None = None
    completion_probabilities: list[_Token] | None = None
    error: Any = None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer took; None: the engine did not tell."""

    prompt_tokens: int | None = None  # those that were cached among them, as Ollama counts since 0.4
    prompt_ns: int | None = None
    output_tokens: int | None = None
    output_ns: int | None = None


class Piece(msgspec.Struct, kw_only=True):
    """Texts are what comes anew. ``end``: why the answer is over. ``error``: the engine's own words."""

    text: str = ""
    thinking: str = ""
    calls: list[CallPart] = []
    logprobs: list[_Token] | None = None
    end: str | None = None
    figures: Figures | None = None
    error: str = ""


_answers = msgspec.json.Decoder(_Answer)
_infills = msgspec.json.Decoder(_Infill)


def answer_piece(data: bytes) -> Piece:
    """Of ``/v1/chat/completions`` and ``/v1/completions``, whole or a chunk. Raises
    msgspec.MsgspecError or UnicodeError."""
    said = _answers.decode(data)
    piece = Piece(figures=_figures(said.timings, said.usage), error=_error(said.error))
    if said.choices:
        choice = said.choices[0]
        piece.text = choice.text or ""
        words = choice.delta or choice.message
        if words is not None:
            piece.text, piece.thinking = words.content or "", words.reasoning_content or ""
            piece.calls = words.tool_calls or []
        if choice.logprobs is not None:
            piece.logprobs = choice.logprobs.content
        if choice.finish_reason is not None:
            piece.end = "length" if choice.finish_reason == "length" else "stop"
    return piece


def infill_piece(data: bytes) -> Piece:
    """Of ``/infill``, and of ``/completion``. Raises msgspec.MsgspecError or UnicodeError."""
    said = _infills.decode(data)
    piece = Piece(text=said.content, figures=_figures(said.timings, None), error=_error(said.error))
    piece.logprobs = said.completion_probabilities
    if said.stop:
        piece.end = "length" if said.stop_type == "limit" else "stop"
    return piece


def _error(value: Any) -> str:
    if value is None:
        return ""
    return words_in({"error": value}) or "The engine failed without a word."


def _figures(timings: _Timings | None, usage: _Usage | None) -> Figures | None:
    if timings is None and usage is None:
        return None
    timings, usage = timings or _Timings(), usage or _Usage()
    prompt = usage.prompt_tokens
    if prompt is None and timings.prompt_n is not None:
        prompt = timings.cache_n + timings.prompt_n
    return Figures(
        prompt_tokens=prompt,
        prompt_ns=_ns(timings.prompt_ms),
        output_tokens=usage.completion_tokens if timings.predicted_n is None else timings.predicted_n,
        output_ns=_ns(timings.predicted_ms),
    )


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)
