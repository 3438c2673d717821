"""Ollama's options of a request in llama-server's words. Those of a load belong to the offer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, read

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_tau",
    "mirostat_eta",
)
_INTS = {"top_k": "top_k", "repeat_last_n": "repeat_last_n", "mirostat": "mirostat", "num_keep": "n_keep"}
_MOST = 2**31 - 1  # llama-server reads 32 bits
_MOST_TOPS = 20  # Ollama's own limit


def sampling(ask: Ask) -> dict[str, Any]:
    """What both of llama-server's dialects take alike. Names that Ollama does not know are left out, as
    Ollama does. Raises Trouble 400 for a value of a wrong type."""
    options, found = ask.options, dict[str, Any]()
    for name in _FLOATS:
        if (value := options.get(name)) is not None:
            found[name] = _float(name, value)
    for name, theirs in _INTS.items():
        if (value := options.get(name)) is not None:
            found[theirs] = _int(name, value)
    if (seed := options.get("seed")) is not None and (number := _number("seed", seed)) >= 0:
        found["seed"] = int(number) % 2**32  # a negative one means another each time, in both
    if (stop := options.get("stop")) is not None:
        found["stop"] = _stop(stop)
    return found


def most_tokens(options: Mapping[str, Any], *, chat: bool) -> int | None:
    """How many tokens an answer may have; None: as many as the context holds. Ollama drops a 0 outside
    chats, and takes every negative number for no limit (recorded with 0.33)."""
    value = options.get("num_predict")
    if value is None:
        return None
    number = _int("num_predict", value)
    return number if number > 0 or (chat and number == 0) else None


def asked_logprobs(ask: Ask) -> int | None:
    """How many alternatives a token is told with; None where no probabilities are asked for."""
    if not read(ask, "logprobs", bool, "true or false"):
        return None
    count = read(ask, "top_logprobs", int, "a whole number") or 0
    if not 0 <= count <= _MOST_TOPS:
        raise bad(f"«top_logprobs» is {count}; it can be 0 to {_MOST_TOPS}.", "Ask for fewer.")
    return count


def schema(ask: Ask) -> dict[str, Any] | None:
    """The JSON schema that ``format`` asks for; {} for any JSON object, None for free text."""
    form = read(ask, "format", Any, '"json" or a schema')
    if form in (None, ""):
        return None
    if form == "json":
        return {}
    if isinstance(form, dict):
        return form or None
    raise bad('«format» is neither "json" nor a JSON schema.', 'Send "json", or the schema as an object.')


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(f"The option «{name}» must be a number.", "Correct it, or leave it out.")
    return value


def _float(name: str, value: Any) -> float:
    number = float(_number(name, value))
    if abs(number) > _MOST:
        raise bad(f"The option «{name}» is out of range: {number:g}.", "Correct it, or leave it out.")
    return number


def _int(name: str, value: Any) -> int:
    number = int(_number(name, value))
    if abs(number) > _MOST:
        raise bad(f"The option «{name}» is out of range: {number:.3g}.", "Correct it, or leave it out.")
    return number


def _stop(value: Any) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise bad("The option «stop» must be a list of texts.", "Correct it, or leave it out.")
    return words
