"""A Modelfile, as ``/api/create`` took it up to 0.5.4: ``FROM`` a model, and parameters."""

from __future__ import annotations

import contextlib
from typing import Any


def read_modelfile(text: str) -> dict[str, Any]:
    """``from`` and ``parameters`` in today's words. Texts over several lines are not read."""
    found: dict[str, Any] = {"parameters": {}}
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.upper() == "FROM":
            found["from"] = rest.strip()
        elif word.upper() == "PARAMETER":
            name, _, value = rest.strip().partition(" ")
            found["parameters"][name.lower()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text.strip('"'))
