"""Bytes, rates, durations and counts: parsing what people type, printing what people read."""

from __future__ import annotations

import re

from narthex.errors import UsageError

KIB = 2**10
MIB = 2**20
GIB = 2**30

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*$", re.IGNORECASE)
_POWERS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 2**40}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?\s*$", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_size(text: str) -> int:
    """Bytes from ``20GB``, ``20GiB``, ``20475MiB``, ``512M`` or plain bytes.

    GB and GiB both mean 2³⁰ bytes, as card vendors use the word. Raises UsageError.
    """
    found = _SIZE.match(text)
    if not found:
        raise UsageError(
            f"«{text}» is not a size.", hint="Write a number with MiB, GiB or GB behind it, as in 20475MiB."
        )
    return int(float(found[1]) * _POWERS[found[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds from ``150``, ``150s``, ``30m`` or ``2h``. Raises UsageError."""
    found = _DURATION.match(text)
    if not found:
        raise UsageError(
            f"«{text}» is not a duration.", hint="Write seconds, or a number with s, m or h, as in 30m."
        )
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]


def format_size(count: int | None) -> str:
    """``18.5 GiB``, ``205 MiB`` or ``12 KiB``; ``?`` for unknown."""
    if count is None:
        return "?"
    sign, size = ("-" if count < 0 else ""), abs(count)
    if size >= 10 * GIB:
        return f"{sign}{size / GIB:.1f} GiB"
    if size >= GIB:
        return f"{sign}{size / GIB:.2f} GiB"
    if size >= MIB:
        return f"{sign}{size / MIB:.0f} MiB"
    return f"{sign}{size / KIB:.0f} KiB"


def format_duration(seconds: float | None) -> str:
    """``4.5 s``, ``2 min 30 s`` or ``1 h 05 min``; ``?`` for unknown."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_loads(count: int) -> str:
    """``1 load``, ``4 loads``."""
    return format_count(count, "load")


def format_count(count: int, noun: str) -> str:
    """``1 model``, ``2 models``: for nouns that take an s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """The text as a sentence: one full stop at its end, whoever wrote it. Empty stays empty."""
    text = text.strip()
    return text if not text or text.endswith(("!", "?", "…")) else f"{text.rstrip('.')}."


def format_rate(tokens_per_second: float | None) -> str:
    """``62.8 t/s`` with three significant digits; ``?`` for unknown."""
    if tokens_per_second is None:
        return "?"
    digits = 0 if tokens_per_second >= 100 else 1 if tokens_per_second >= 10 else 2
    return f"{tokens_per_second:,.{digits}f} t/s"
