"""Colour for a terminal, and for nothing else: ``NO_COLOR``, ``TERM=dumb`` and pipes get plain text."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO

import click
import msgspec

NARROW, WIDE = 40, 100


class Ink(msgspec.Struct, frozen=True, kw_only=True):
    """How text is written here. The functions return their text, coloured where ``colour`` is true."""

    colour: bool = False
    width: int = 80

    @classmethod
    def of(cls, stream: TextIO) -> Ink:
        """As the stream can have it: 80 columns where it is no terminal."""
        dull = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") == "dumb"
        if not stream.isatty():
            return cls()
        columns = shutil.get_terminal_size().columns
        return cls(colour=not dull, width=max(NARROW, min(columns, WIDE)))

    def strong(self, text: str) -> str:
        """Headings."""
        return self._style(text, bold=True)

    def faint(self, text: str) -> str:
        """What stands beside the matter: places, notes."""
        return self._style(text, dim=True)

    def tint(self, text: str, colour: str) -> str:
        """One of the eight colours."""
        return self._style(text, fg=colour, bold=colour == "red")

    def wrap(self, text: str, first: str = "", rest: str | None = None) -> str:
        """A paragraph behind ``first``; its further lines behind ``rest``, by default as many blanks."""
        further = " " * len(first) if rest is None else rest
        return textwrap.fill(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=further,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _style(self, text: str, **how: str | bool) -> str:
        return click.style(text, **how) if self.colour and text else text  # type: ignore[arg-type]
