"""Aligned columns of plain text: no colour, no width of a terminal, the same in a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "


def width(text: str) -> int:
    """Columns a terminal needs: combining marks take none, wide characters two."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "", indent: str = "") -> str:
    """A head, a rule and rows, each column as wide as its widest cell.

    ``right`` holds one letter a column: ``r`` aligns to the right, anything else to the left. Rows may be
    shorter than the head. Line breaks inside a cell become spaces.
    """
    cells = [[" ".join(cell.split("\n")) for cell in row] + [""] * (len(head) - len(row)) for row in rows]
    widths = [max(width(row[index]) for row in (list(head), *cells)) for index in range(len(head))]
    lines = [_row(head, widths, right), GAP.join("─" * wide for wide in widths)]
    lines += [_row(row, widths, right) for row in cells]
    return "\n".join((indent + line).rstrip() for line in lines)


def _row(cells: Sequence[str], widths: Sequence[int], right: str) -> str:
    parts = []
    for index, cell in enumerate(cells):
        pad = " " * (widths[index] - width(cell))
        parts.append(pad + cell if right[index : index + 1] == "r" else cell + pad)
    return GAP.join(parts)
