"""What a client hears whose request can't be routed."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from narthex.errors import NarthexError
from narthex.gateway.trouble import Trouble
from narthex.models.header import printable

_NEAR = 3  # names that are shown
_SHOWN = 80  # letters of a name that are repeated


def unknown_name(name: str, known: Sequence[str], role: str = "") -> Trouble:
    """404 in Ollama's own words, with the near names. ``role``: whose model it is in narthex.toml."""
    shown = printable(name.strip())[:_SHOWN]
    near = get_close_matches(name[:_SHOWN].casefold(), known, n=_NEAR, cutoff=0.5) or known[:_NEAR]
    way = f"There is {', '.join(near)}." if near else "There is no model at all yet."
    if role:
        way = f"The role «{role}» of narthex.toml needs it. {way}"
    if not shown.endswith(".gguf"):
        way += f" `ollama pull {shown}` may fetch it."
    return Trouble(404, "model_not_found", f"model '{shown}' not found.", remedy=way)


def damaged_file(name: str, fault: NarthexError) -> Trouble:
    """A file that is there and is no model, or not all of one."""
    return Trouble(
        503,
        "gguf_invalid_or_corrupt",
        f"«{printable(name.strip())[:_SHOWN]}» can't be loaded: {Path(name).name} is no whole model file.",
        remedy=f"{fault.hint} `narthex inspect FILE` tells more.",
    )


def context_too_large(role: str, model: str, asked: int, most: int) -> Trouble:
    """400 with both numbers, in tokens: nothing is ever cut."""
    return Trouble(
        400,
        "context_too_large",
        f"A context of {asked:,} tokens is asked for, and «{role or model}» has {most:,}.",
        remedy=f"Ask for {most:,} or fewer, or make a larger setting: narthex tune {model} --ctx {asked}.",
        figures={"asked_tokens": asked, "largest_tokens": most},
    )


def pin_refused(keep_alive: Any, keep_alive_s: float) -> Trouble:
    """400 for a keep_alive that means «for ever». ``keep_alive_s``: what holds instead."""
    stays = "for ever" if keep_alive_s < 0 else f"{keep_alive_s:,.0f} s after its last answer"
    shown = printable(str(keep_alive))[:_SHOWN]
    return Trouble(
        400,
        "pin_refused",
        f"keep_alive {shown} would hold the card for ever, and narthex.toml does not allow pins.",
        remedy=f"Leave keep_alive out: the model stays {stays}. [gateway] pins = true allows it.",
    )
