"""Sampling parameters of OpenAI's API as Ollama's options, as Ollama's own ``/v1`` maps them."""

from __future__ import annotations

from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, not_mappable, read

_PENALTIES = ("presence_penalty", "frequency_penalty")
_MOST = 2**31 - 1


def options_of(ask: Ask) -> dict[str, Any]:
    """What is left out of ``temperature`` and ``top_p`` is 1, whatever the model says: so does Ollama's own
    ``/v1``. Raises Trouble 400."""
    _refuse_several(ask)
    found: dict[str, Any] = {name: _number(ask, name, 1.0) for name in ("temperature", "top_p")}
    for name in _PENALTIES:
        if (value := _number(ask, name, None)) is not None:
            found[name] = value
    if (seed := read(ask, "seed", int, "a whole number")) is not None:
        found["seed"] = _fitting("seed", seed)
    for name in ("max_tokens", "max_completion_tokens"):
        if (most := read(ask, name, int, "a whole number")) is not None:
            found["num_predict"] = _fitting(name, most)
    stop: str | list[str] | None = read(ask, "stop", str | list[str], "a text or a list of texts")
    if stop is not None:
        found["stop"] = [stop] if isinstance(stop, str) else stop
    return found


def _refuse_several(ask: Ask) -> None:
    for name in ("n", "best_of"):
        count = read(ask, name, int, "a whole number")
        if count is not None and count > 1:
            raise not_mappable(f"«{name}» is {count}, and Ollama gives one answer.", "Ask that many times.")
    if read(ask, "logit_bias", dict[str, Any], "an object"):
        raise not_mappable("«logit_bias» has no counterpart in Ollama.", "Leave it out.")


def _number(ask: Ask, name: str, default: float | None) -> float | None:
    value = read(ask, name, float, "a number")
    return default if value is None else value


def _fitting(name: str, value: int) -> int:
    if abs(value) > _MOST:
        raise bad(f"«{name}» is out of range: {value:.3g}.", "Correct it, or leave it out.")
    return value
