"""What the fakes answer, made once and kept: complete answers, and streams as pieces that are framed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from narthex.testing.engine.wire import EVENTS, LINES, chunk, opening, whole

CREATED = 1_790_000_000
CREATED_AT = "2026-09-21T13:33:20.123456789Z"
_WORD = " word"
_MS = 1_000_000


@dataclass(frozen=True)
class Script:
    """One answer. ``pieces`` are the stream's, framed; ``error`` is what comes instead of the rest."""

    whole: bytes
    head: bytes
    pieces: tuple[bytes, ...]
    error: bytes


@lru_cache(maxsize=512)
def script(kind: str, model: str, tokens: int, prompt: int, usage: bool = False) -> Script:
    """``kind``: "v1chat", "v1completion", "completion" (llama-server's own), "chat", "generate" (Ollama's).
    ``prompt``: tokens in it. ``usage``: the stream ends with a chunk that counts them."""
    pieces: list[bytes]
    if kind in {"chat", "generate"}:
        rows = [_ollama_row(kind, model, _WORD) for _ in range(tokens)]
        rows.append(_ollama_end(kind, model, "", tokens, prompt))
        pieces = [_json(row) + b"\n" for row in rows]
        complete = _json(_ollama_end(kind, model, _WORD * tokens, tokens, prompt))
        error = _json({"error": "an error was encountered while running the model: unexpected EOF"}) + b"\n"
        return Script(whole(complete), opening(LINES), tuple(chunk(piece) for piece in pieces), chunk(error))
    if kind == "completion":
        events = [{"content": _WORD, "tokens": [7], "stop": False} for _ in range(tokens)]
        end = {"content": "", "stop": True, "stop_type": "eos", "truncated": False}
        timings = {"timings": _timings(tokens, prompt), "tokens_predicted": tokens}
        events.append({**end, **timings})
        complete = _json({**end, **timings, "content": _WORD * tokens})
        pieces = [_event(event) for event in events]
    else:
        complete, pieces = _openai(kind, model, tokens, prompt, usage)
    told = {"error": {"code": 500, "message": "Compute error.", "type": "server_error"}}
    framed = tuple(chunk(piece) for piece in pieces)
    return Script(whole(complete), opening(EVENTS), framed, chunk(_event(told)))


def _openai(kind: str, model: str, tokens: int, prompt: int, usage: bool) -> tuple[bytes, list[bytes]]:
    chat = kind == "v1chat"
    name = "chat.completion" if chat else "text_completion"
    head: dict[str, Any] = {"id": "chatcmpl-1", "created": CREATED, "model": model}
    head["system_fingerprint"] = "b7000-fake"
    counted = {
        "completion_tokens": tokens,
        "prompt_tokens": prompt,
        "total_tokens": tokens + prompt,
    }

    def choice(text: str | None, reason: str | None, *, delta: bool, first: bool = False) -> dict[str, Any]:
        said: dict[str, Any]
        if not chat:
            said = {"text": text or ""}
        elif not delta:
            said = {"message": {"role": "assistant", "content": text}}
        else:
            role = {"role": "assistant", "content": None} if first else {}
            said = {"delta": role if text is None else {"content": text}}
        return {"finish_reason": reason, "index": 0, **said}

    body = {"object": name, **head, "choices": [choice(_WORD * tokens, "stop", delta=False)]}
    complete = _json({**body, "usage": counted, "timings": _timings(tokens, prompt)})
    part = {**head, "object": f"{name}.chunk" if chat else name}
    rows = [{**part, "choices": [choice(_WORD, None, delta=True)]} for _ in range(tokens)]
    if chat:
        rows.insert(0, {**part, "choices": [choice(None, None, delta=True, first=True)]})
    last = {**part, "choices": [choice(None, "stop", delta=True)]}
    rows.append({**last, "timings": _timings(tokens, prompt)})
    if usage:
        rows.append({**part, "choices": [], "usage": counted})
    return complete, [*(_event(row) for row in rows), b"data: [DONE]\n\n"]


def _ollama_row(kind: str, model: str, text: str) -> dict[str, Any]:
    said = {"response": text} if kind == "generate" else {"message": {"role": "assistant", "content": text}}
    return {"model": model, "created_at": CREATED_AT, **said, "done": False}


def _ollama_end(kind: str, model: str, text: str, tokens: int, prompt: int) -> dict[str, Any]:
    return {
        **_ollama_row(kind, model, text),
        "done": True,
        "done_reason": "stop",
        "total_duration": (tokens + prompt) * 12 * _MS,
        "load_duration": 3 * _MS,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": max(1, prompt) * _MS,
        "eval_count": tokens,
        "eval_duration": max(1, tokens) * 10 * _MS,
    }


def embedding(kind: str, model: str, count: int) -> bytes:
    """``kind``: "embed", "embeddings" (Ollama's), "v1embeddings"."""
    vector = [0.125, -0.25, 0.5, 0.8]
    found: dict[str, Any]
    if kind == "v1embeddings":
        rows = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
        tokens = {"prompt_tokens": 3 * count, "total_tokens": 3 * count}
        found = {"object": "list", "data": rows, "model": model, "usage": tokens}
    elif kind == "embed":
        found = {"model": model, "embeddings": [vector] * count, "total_duration": 5 * _MS}
        found |= {"load_duration": _MS, "prompt_eval_count": 3 * count}
    else:
        found = {"embedding": vector}
    return whole(_json(found))


def llama_error(code: int, message: str, kind: str = "server_error", **more: Any) -> bytes:
    """As llama-server refuses."""
    return whole(_json({"error": {"code": code, "message": message, "type": kind, **more}}), code)


def ollama_error(code: int, message: str, *, openai: bool = False) -> bytes:
    """As Ollama refuses, on ``/api`` or on ``/v1``."""
    if not openai:
        return whole(_json({"error": message}), code)
    kind = {404: "not_found_error", 400: "invalid_request_error"}.get(code, "api_error")
    return whole(_json({"error": {"message": message, "type": kind, "param": None, "code": None}}), code)


def _timings(tokens: int, prompt: int) -> dict[str, float]:
    return {
        "cache_n": 0,
        "prompt_n": prompt,
        "prompt_ms": float(max(1, prompt)),
        "prompt_per_second": 1000.0,
        "predicted_n": tokens,
        "predicted_ms": 10.0 * max(1, tokens),
        "predicted_per_second": 100.0,
    }


def _event(row: dict[str, Any]) -> bytes:
    return b"data: " + _json(row) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
