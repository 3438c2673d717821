"""The reference page knows every figure, every field of the log and every cause."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from narthex.gateway.causes import BY_OUTCOME
from narthex.gateway.watch.figures import FIGURES
from narthex.gateway.watch.record import LoadRecord, RequestRecord, StartRecord, UnloadRecord

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "gateway-http.md").read_text()


def causes() -> Iterator[str]:
    """Every slug that a Trouble of the gateway is made with."""
    for path in (ROOT / "src" / "narthex" / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Trouble", "Verdict"}:
                for argument in node.args[1:2]:
                    yield from (text for part in ast.walk(argument) if (text := _text(part)))
    yield from (cause for cause, _ in BY_OUTCOME.values())


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_every_figure_stands_in_the_reference_with_its_labels() -> None:
    for figure in FIGURES:
        labels = ", ".join(f"`{label}`" for label in figure.labels) or "–"
        assert f"| `{figure.name}` | {figure.kind} | {labels} | {figure.help} |" in PAGE


@pytest.mark.parametrize("line", [RequestRecord, StartRecord, LoadRecord, UnloadRecord])
def test_every_field_of_the_log_stands_in_the_reference(line: type[msgspec.Struct]) -> None:
    tag = line.__struct_config__.tag
    row = next(text for text in PAGE.splitlines() if text.startswith(f"| `{tag}` |"))
    assert {name for name in line.__struct_fields__ if f"`{name}`" not in row} == set()


def test_every_cause_is_the_doctors_or_stands_in_the_reference() -> None:
    known = {path.stem for path in (ROOT / "docs" / "causes").glob("*.md")}
    assert {cause for cause in causes() if cause not in known and f"| `{cause}` |" not in PAGE} == set()
