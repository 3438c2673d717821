"""Durations as a Go program writes and reads them: in the access log, in OLLAMA_KEEP_ALIVE."""

from __future__ import annotations

import re

FOREVER_S = 20 * 365 * 86_400  # Ollama writes «for ever» as some 290 years ahead
KEEP_ALIVE_S = 300.0  # where OLLAMA_KEEP_ALIVE is not set
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ns": 1e-9}
_NUMBER = r"\d+\.?\d*|\.\d+"
_PART = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_WHOLE_SECONDS = re.compile(r"[+-]?\d+")


def go_seconds(text: str) -> float | None:
    """Seconds of ``1m23s``, ``152.3µs`` or ``-1.5h``; None for a text that is no duration of Go."""
    bare = text[1:] if text[:1] in ("+", "-") else text
    parts = _PART.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds


def default_keep_alive(text: str) -> float | None:
    """Seconds of OLLAMA_KEEP_ALIVE: a Go duration or whole seconds; None for ever, 300 where it makes no
    sense, as Ollama itself reads it."""
    word = text.strip().strip("\"'")
    seconds = float(word) if _WHOLE_SECONDS.fullmatch(word) else go_seconds(word)
    if seconds is None:
        return KEEP_ALIVE_S
    return None if seconds < 0 or seconds > FOREVER_S else seconds
