"""Click options made from the tables: one row of :data:`narthex.knobs.KNOBS` is one flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from narthex.knobs import BY_NAME

F = TypeVar("F", bound=Callable[..., Any])


def knob_option(name: str, **extra: Any) -> Callable[[F], F]:
    """The flag of one knob; its value arrives as text, to be read by ``parse_knob``."""
    knob = BY_NAME[name]
    metavar = "|".join(knob.choices) if knob.choices else "N|max" if knob.kind == "layers" else "N"
    return click.option(knob.flag, name, metavar=metavar, help=knob.help, **extra)


def json_option(function: F) -> F:
    """``--json``: data on stdout instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


def plain_option(function: F) -> F:
    """``--plain``: progress as plain lines, for :class:`narthex.views.progress.Progress`."""
    return click.option(
        "--plain/--live",
        "plain",
        default=None,
        help="Progress as plain lines, or as a live display. The default fits the terminal.",
    )(function)
