"""Sizes as programs write them into their messages."""

from __future__ import annotations

import re

_SIZE = re.compile(r"^\s*([\d.]+) ?([KMGT]?)(i?)(?:B|bytes)?\s*$", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def size_of(text: str) -> int | None:
    """Bytes of ``"7.71 GiB"``, ``"0 bytes"``, ``"9.6 GB"`` (decimal); None for anything else."""
    found = _SIZE.match(text)
    if found is None:
        return None
    base = 1000 if found[2] and not found[3] and "B" in text.upper() else 1024
    try:
        return round(float(found[1]) * float(base ** _POWER[found[2].upper()]))
    except ValueError:
        return None
