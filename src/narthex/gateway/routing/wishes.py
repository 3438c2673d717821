"""What a request wishes of the setting that answers it: its context, its length, and how long it stays."""

from __future__ import annotations

import msgspec

from narthex.engines.ollama.durations import go_seconds
from narthex.gateway.ask import Ask
from narthex.gateway.body import UNREADABLE

BYTES_PER_TOKEN = 4  # of a prompt, for an estimate: English has some 4, other languages and programs fewer
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # /v1's words for num_predict

_DIGITS = 10  # of a limit in tokens; a longer one is none


def asked_ctx(ask: Ask) -> int | None:
    """The context that a client asks for, in tokens; None where it asks for none or for nonsense."""
    value = ask.options.get("num_ctx")
    if ask.api == "openai" and (raw := ask.fields.get("num_ctx")) is not None:
        try:
            value = msgspec.json.decode(raw)
        except UNREADABLE:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < 2**31 else None


def estimated(ask: Ask) -> int:
    """Tokens that the prompt and its answer may take, by the length of the text; never more than a hint."""
    if ask.kind == "embed":  # many texts, each of which has to fit by itself
        return 0
    wanted = ask.options.get("num_predict")
    for name in _LIMITS:
        if (
            ask.api == "openai"
            and (raw := ask.fields.get(name)) is not None
            and 0 < len(raw) <= _DIGITS
            and bytes(raw).isdigit()
        ):
            wanted = int(bytes(raw))
    generated = wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0 else 0
    return ask.prompt_bytes // BYTES_PER_TOKEN + generated


def pins(value: object) -> bool:
    """Whether a keep_alive means «for ever»: a negative number, or a negative duration of Go."""
    if isinstance(value, str):
        seconds = go_seconds(value.strip())
        return seconds is not None and seconds < 0
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 0
