"""What a value of ``narthex.toml`` or of a setting may be, and how it is read.

The same readers serve the file, where values have types, and the environment, where all is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec

from narthex.errors import UsageError
from narthex.knobs import BY_NAME, parse_knob
from narthex.units import parse_duration, parse_size

ROLES = ("quality", "fast", "stable", "code", "embed")
BACKOFF_WORDS = {
    "ctx": "num_ctx",
    "num_ctx": "num_ctx",
    "gpu": "gpu_layers",
    "num_gpu": "gpu_layers",
    "gpu_layers": "gpu_layers",
    "batch": "batch",
    "num_batch": "batch",
    "ubatch": "ubatch",
}
"""Word in a back-off order → knob: Ollama's names, narthex's, and the short ones."""
_LOGS = ("docker:", "journal:", "file:")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class Kind(msgspec.Struct, frozen=True):
    """A kind of value: ``words`` tell what to write, ``read`` takes what TOML holds.

    ``read`` raises UsageError or msgspec.ValidationError.
    """

    words: str
    read: Callable[[Any], Any]


def knob_order(words: Iterable[str]) -> tuple[str, ...]:
    """The knobs that give way, in order: «ctx, gpu, batch». Raises UsageError."""
    names: list[str] = []
    for word in words:
        name = BACKOFF_WORDS.get(word.strip().lower())
        if name is None:
            known = "it does not back off" if word.strip() in BY_NAME else "there is no such knob"
            raise UsageError(f"«{word}» can't give way: {known}.", hint="Use ctx, gpu, batch or ubatch.")
        if name in names:
            raise UsageError(f"«{word}» stands twice in the back-off order.", hint="Name each knob once.")
        names.append(name)
    return tuple(names)


def kv_types(words: Iterable[str]) -> tuple[str, ...]:
    """KV cache types, as in «f16, q8_0». Raises UsageError."""
    return tuple(parse_knob("kv_type", word) for word in words)


def growth(word: str) -> str:
    """«ctx», or "" for «off». Raises UsageError."""
    if word.strip().lower() not in ("ctx", "off"):
        raise UsageError(f"«{word}» can't grow.", hint="Use ctx or off.")
    return "" if word.strip().lower() == "off" else "ctx"


def log_place(text: str) -> str:
    """Where a server's log is: «docker:NAME», «journal:UNIT» or «file:PATH». Raises UsageError."""
    place = text.strip()
    if not place.startswith(_LOGS) or not place.partition(":")[2].strip():
        raise UsageError(
            f"«{text}» is no place of a log.", hint="Write docker:NAME, journal:ollama.service or file:PATH."
        )
    return place


def role_name(text: str) -> str:
    """The name of a role. Raises UsageError for one that clients could not tell from a model's."""
    if _ROLE.fullmatch(text):
        return text
    why = (
        "with «:» or «/» it would be the name of a model"
        if ":" in text or "/" in text
        else "clients ask for it as for a model"
    )
    raise UsageError(
        f"«{text}» can't be the name of a role: {why}.",
        hint="Begin with a letter; then letters, digits, «-», «_» and «.», 64 at most.",
    )


def split_words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _text(value: Any) -> str:
    text = msgspec.convert(value, str).strip()
    if not text:
        raise UsageError("The text is empty.", hint="Write it, or leave the line out.")
    return text


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return list(split_words(value))
    return [_text(word) for word in msgspec.convert(value, list[str])]


def _command(value: Any) -> tuple[str, ...]:
    return tuple(msgspec.convert(value, Annotated[list[str], msgspec.Meta(min_length=1)]))


def _size(value: Any) -> int:
    found = msgspec.convert(value, Annotated[int, msgspec.Meta(ge=0)] | str)
    return parse_size(found) if isinstance(found, str) else found


def _duration(value: Any) -> float:
    found = msgspec.convert(value, Annotated[float, msgspec.Meta(ge=0, le=1e9)] | str, strict=True)
    return parse_duration(found) if isinstance(found, str) else found


def _stay(value: Any) -> float:
    return -1.0 if value == -1 and not isinstance(value, bool) else _duration(value)


def _removal(value: Any) -> bool | str:
    found = msgspec.convert(value, bool | str)
    return _text(found) if isinstance(found, str) else found


def _exactly(type_: Any) -> Callable[[Any], Any]:
    return lambda value: msgspec.convert(value, type_)


COUNT = Kind("a whole number of 1 or more", _exactly(Annotated[int, msgspec.Meta(ge=1, lt=2**31)]))
LAYERS = Kind("a whole number of 0 or more", _exactly(Annotated[int, msgspec.Meta(ge=0, lt=2**31)]))
SIZE = Kind('a size, as in "512 MiB"', _size)
DURATION = Kind('a duration, as in "150s" or "30m"', _duration)
ORDER = Kind('a list, as in ["ctx", "gpu", "batch"]', lambda value: knob_order(_texts(value)))
KV_TYPES = Kind('a list, as in ["f16", "q8_0"]', lambda value: kv_types(_texts(value)))
GROWTH = Kind('"ctx" or "off"', lambda value: growth(_text(value)))
TEXT = Kind("a text in quotes", _text)
MODEL = Kind('the name of a model, as in "llama3.2:3b"', _text)
ROLE = Kind(
    "the name of a role, as " + ", ".join(f'"{role}"' for role in ROLES),
    lambda value: role_name(_text(value)),
)
LOG = Kind('"docker:NAME", "journal:UNIT" or "file:PATH"', lambda value: log_place(_text(value)))
REMOVAL = Kind('true, or the reason, as in "too slow here"', _removal)
SWITCH = Kind("true or false", _exactly(bool))
NAMES = Kind('a list of texts, as in ["one", "two"]', lambda value: tuple(_texts(value)))
BACKGROUND = Kind('"after", "resident" or "as-asked"', _exactly(Literal["after", "resident", "as-asked"]))
SHARING = Kind('"off", "reserve" or "lease"', _exactly(Literal["off", "reserve", "lease"]))
STAY = Kind('a duration, as in "30m", or -1 for ever', _stay)
COMMAND = Kind('a list of words, as in ["blender", "-b", "scene.blend", "-a"]', _command)
