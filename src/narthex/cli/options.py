"""Click options made from the tables: one row of :data:`narthex.knobs.KNOBS` is one flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from narthex.errors import UsageError
from narthex.knobs import BY_NAME

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from narthex.cli.target import Target

F = TypeVar("F", bound=Callable[..., Any])


def knob_option(name: str, **extra: Any) -> Callable[[F], F]:
    """The flag of one knob; its value arrives as text, to be read by ``parse_knob``."""
    knob = BY_NAME[name]
    metavar = "|".join(knob.choices) if knob.choices else "N|max" if knob.kind == "layers" else "N"
    return click.option(
        knob.flag,
        name,
        metavar=metavar,
        help=knob.help,
        shell_complete=lambda ctx, param, typed: [word for word in knob.choices if word.startswith(typed)],
        **extra,
    )


ENGINES = ("llama-server", "ollama")


def engine_option(function: F) -> F:
    """``--engine``: which engine is meant where MODEL could be either's; see :mod:`narthex.cli.target`."""
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="A file goes to llama-server, a name to Ollama; this decides otherwise.",
    )(function)


def ollama_option(function: F) -> F:
    """``--ollama``: the Ollama to use, by its address."""
    return click.option(
        "--ollama", metavar="URL", help="The Ollama to use, as in http://127.0.0.1:11434.  [default: found]"
    )(function)


def model_argument(function: F) -> F:
    """``MODEL``: a file, which Tab completes, «demo», or a name in Ollama."""
    return click.argument("model", shell_complete=offer_files)(function)


def offer_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tab completes the names of files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


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


def check_threads(threads: int | None, cores: int | None) -> None:
    """Refuse more threads than physical cores: oversubscribed, an engine took 34 s for what took 0.3 s."""
    if cores is not None and threads is not None and threads > cores:
        raise UsageError(
            f"{threads} threads are more than the {cores} physical cores of this machine.",
            hint=f"Use {cores} or fewer: more make an engine much slower.",
        )


def with_vram(target: Target, vram: str | None) -> Target:
    """The target with the card that a person named, for an Ollama whose cards can't be seen from here."""
    if vram is None:
        return target
    from narthex.engines._base import EngineDevice
    from narthex.engines.ollama.discovery import CARDS_UNKNOWN
    from narthex.units import parse_size

    size = parse_size(vram)
    known = any(device.total_bytes for device in target.engine.devices)
    if target.server is None or target.server.place != "elsewhere" or known:
        raise UsageError(
            "--vram is for an Ollama whose cards can't be seen from here.",
            hint="Leave it out: the cards of this one are known. «narthex plan --vram» plans for any size.",
        )
    card = EngineDevice(name="GPU0", description="as given", total_bytes=size, free_bytes=size)
    gaps = tuple(gap for gap in target.engine.gaps if gap != CARDS_UNKNOWN)
    engine = msgspec.structs.replace(target.engine, devices=(card,), gaps=gaps)
    return msgspec.structs.replace(target, engine=engine)
