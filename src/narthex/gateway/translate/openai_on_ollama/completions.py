"""``/v1/completions`` on ``/api/generate``: everything but the sampling."""

from __future__ import annotations

from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, not_mappable, read
from narthex.gateway.translate.openai_on_ollama.chat import format_of

_MOST_TOPS = 20


def completion_fields(ask: Ask) -> dict[str, Any]:
    """Raises Trouble 400."""
    if read(ask, "echo", bool, "true or false"):
        raise not_mappable("«echo» has no counterpart in Ollama.", "Put the prompt before the answer.")
    found: dict[str, Any] = {"prompt": _prompt(ask), **format_of(ask)}
    if suffix := read(ask, "suffix", str, "a text"):
        found["suffix"] = suffix
    count: int | bool | None = read(ask, "logprobs", int | bool, "a whole number")
    if count is not None and count is not False:
        count = int(count)
        if not 0 <= count <= _MOST_TOPS:
            raise bad(f"«logprobs» is {count}; it can be 0 to {_MOST_TOPS}.", "Ask for fewer.")
        found |= {"logprobs": True, "top_logprobs": count}
    return found


def _prompt(ask: Ask) -> str:
    given = read(ask, "prompt", Any, "a text")
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if given is None or isinstance(given, str):
        return given or ""
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        raise not_mappable(
            f"There are {len(given)} prompts, and Ollama takes one at a time.", "Send each on its own."
        )
    raise not_mappable("A prompt of tokens can't be given to Ollama.", "Send it as text.")
