"""Reads an answer's figures, and whether it came to its end, from its last bytes alone.

Nothing is decoded: inside a JSON text quotes are escaped, so a name with bare quotes and a colon is a key.
Sources: Ollama 0.33 (/api and /v1) and llama-server b11434.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Shape = Literal["ndjson", "sse", "whole"]
_NAMES = (
    "prompt_eval_count|eval_count|eval_duration"  # Ollama; durations in ns
    "|prompt_tokens|completion_tokens|input_tokens|output_tokens"  # OpenAI: chat and completions, responses
    "|prompt_per_second|predicted_per_second|prompt_n|predicted_n|cache_n"  # llama-server's «timings»
)
_FIGURE = re.compile(rf'"({_NAMES})"\s*:\s*(\d+(?:\.\d+)?)'.encode())
_DONE = re.compile(rb'"done"\s*:\s*true\b')
_ENDED = re.compile(
    rb"^data:\s*\[DONE\]"
    rb'|"finish_reason"\s*:\s*"'
    rb'|"stop_type"\s*:\s*"'  # of llama-server's /infill, which has no [DONE]
    rb'|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"'
    rb"|^event:\s*response\.(?:completed|incomplete|failed)",
    re.MULTILINE,
)
_LINES = {"ndjson": 1, "sse": 6}  # an event has two to three lines, its blank one counted
_WHOLE_BYTES = 16 * 1024
_S = 1e-9


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one answer; None where the engine did not tell.

    ``prompt_tps`` is None for Ollama: its count holds the tokens that were taken from its cache, its duration
    does not.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tps: float | None = None
    decode_tps: float | None = None


NONE = Figures()


def figures_of(end: bytes, shape: Shape) -> Figures:
    """From the last bytes of an answer of this shape."""
    found = {name.decode(): float(text) for name, text in _FIGURE.findall(_last(end, shape))}
    if not found:
        return NONE
    return Figures(
        prompt_tokens=_count(found, "prompt_eval_count", "prompt_tokens", "input_tokens")
        or _sum(found, "prompt_n", "cache_n"),
        output_tokens=_count(found, "eval_count", "completion_tokens", "output_tokens", "predicted_n"),
        prompt_tps=found.get("prompt_per_second"),
        decode_tps=found.get("predicted_per_second") or _decode_tps(found),
    )


def ended_well(end: bytes, shape: Shape) -> bool:
    """Whether a stream has its end mark: «done» in NDJSON; [DONE], a finish reason or the last event of a
    response in SSE. The last line of /api/generate may be longer than what is known of it: it begins with
    «done» and then lists its «context», so its timings tell it."""
    if shape == "ndjson":
        last = _last(end, shape)
        return _DONE.search(last) is not None or b'"total_duration":' in last
    return _ENDED.search(end) is not None


def _last(end: bytes, shape: Shape) -> bytes:
    """Its last lines; of an answer in one piece its last bytes."""
    if shape == "whole":
        return end[-_WHOLE_BYTES:]
    at = len(end.rstrip(b"\r\n"))
    for _ in range(_LINES[shape]):
        at = end.rfind(b"\n", 0, at)
        if at < 0:
            return end
    return end[at + 1 :]


def _count(found: dict[str, float], *names: str) -> int | None:
    return next((int(found[name]) for name in names if name in found), None)


def _sum(found: dict[str, float], *names: str) -> int | None:
    return int(sum(found.get(name, 0.0) for name in names)) if names[0] in found else None


def _decode_tps(found: dict[str, float]) -> float | None:
    """The first token's time belongs to the prompt, as in llama-server's own rate."""
    count, took = found.get("eval_count", 0.0), found.get("eval_duration", 0.0)
    return (count - 1) / (took * _S) if count > 1 and took > 0 else None
