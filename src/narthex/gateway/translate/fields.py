"""Reading what a translation needs out of an :class:`~narthex.gateway.ask.Ask`."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.trouble import Trouble

_T = TypeVar("_T")


def read(ask: Ask, name: str, kind: type[_T] | Any, words: str) -> _T | None:
    """One field of the body; None where it is absent or null. Raises Trouble 400 for another type."""
    raw = ask.fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        found: _T = msgspec.json.decode(raw, type=kind)
    except RecursionError:
        raise bad(f"«{name}» is nested too deep.", "Send fewer levels.") from None
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise bad(f"«{name}» must be {words}: {error}.", "Correct it, or leave it out.") from None
    return found


def encode(value: Any) -> bytes:
    """JSON for an engine. Raises Trouble 400 for numbers and letters that JSON can't carry on."""
    try:
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError) as error:
        words = f"The request holds a value that can't be passed on: {error}."
        raise bad(words, "Send plain numbers, and text in UTF-8.") from None


def bad(message: str, remedy: str) -> Trouble:
    """What no engine would take either."""
    return Trouble(400, "bad_request", message, remedy=remedy)


def not_mappable(message: str, remedy: str) -> Trouble:
    """What the engine behind this model has no word for."""
    return Trouble(400, "not_mappable", message, remedy=remedy)


def unreadable(what: str, data: bytes) -> Trouble:
    """An engine's answer that is not what its API promises. ``what`` begins the sentence."""
    start = data[:120].decode("utf-8", errors="replace")
    return Trouble(
        502,
        "engine_answer_unreadable",
        f"{what} sent an answer that can't be read: «{start}».",
        remedy="Look at the engine's log; an unknown version may be the cause.",
    )
