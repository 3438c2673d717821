"""``error_words``: what an engine itself said, out of the body of a failure."""

from __future__ import annotations

from typing import Any

import msgspec

_LENGTH = 2000  # letters kept: a proxy's page of HTML is no message
_DEPTH = 8  # Ollama puts llama-server's JSON, as text, into its own


def error_words(data: bytes) -> str:
    """The sentence in an error of Ollama (``{"error": "…"}``), of OpenAI's kind (``{"error": {"message":
    "…"}}``), or in one inside the other; else the text as it is. Never raises."""
    text = data.decode("utf-8", errors="replace").strip()
    for line in (text, text.partition("\n")[0]):  # a stream may go on behind it
        try:
            return words_in(msgspec.json.decode(line)) or text[:_LENGTH]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return text[:_LENGTH]


def words_in(value: Any, depth: int = _DEPTH) -> str:
    """The sentence in a decoded error; "" where there is none."""
    if isinstance(value, dict):
        named = (value.get(name) for name in ("error", "message", "detail"))
        return next((words for each in named if depth and (words := words_in(each, depth - 1))), "")
    if not isinstance(value, str):
        return ""
    if depth and value.lstrip().startswith("{"):
        try:
            inner = words_in(msgspec.json.decode(value), depth - 1)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            inner = ""
        return inner or value[:_LENGTH]
    return value.strip()[:_LENGTH]
