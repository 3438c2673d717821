"""Recorded answers of a real Ollama, and how to compare with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.ollama.shape import shape

NOT_TOLD = ("context",)  # tokens of the conversation: only Ollama can go on from them


def exchange(shared: Path, name: str) -> dict[str, Any]:
    """One recording; skipped where there is none."""
    path = shared / "ollama-wire" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no recording {name} beside this clone")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def lines_of(recording: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of its stream."""
    return [json.loads(row["line"]) for row in recording["stream"]]


def same_shape(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """The same keys in the same order, the same types, and the same words where they are fixed."""
    kept = {name: value for name, value in theirs.items() if name not in NOT_TOLD}
    return list(ours) == list(kept) and shape(ours) == shape(kept)
