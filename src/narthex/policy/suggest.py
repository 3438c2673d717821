"""Which model could have which role, by size and kind alone: only where it is obvious, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from narthex.units import format_size

_SHARE = 0.85  # of the card that weights may take, so that a context still fits
_QUICK = 0.5  # the fast one is at most half as large as the quality one
_CODE = ("coder", "codestral", "codellama", "codegemma", "starcoder", "devstral", "code")


class SeenModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a server: what its list says."""

    name: str
    size_bytes: int
    words: str = ""  # "Q4_K_M, qwen3moe", for people
    embeds: bool = False
    loaded: bool = False
    same_as: str = ""  # another name over the same file, which is the one to suggest


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A role that a model could have."""

    role: str
    name: str
    why: str


def suggest_roles(models: Sequence[SeenModel], vram_bytes: int | None) -> tuple[Suggestion, ...]:
    """At most one model a role. Nothing is guessed for «stable»: only a soak can tell.

    ``vram_bytes`` is that of the cards together; None where it is unknown.
    """
    models = [each for each in models if not each.same_as]
    chat = sorted((each for each in models if not each.embeds), key=lambda each: each.size_bytes)
    found = []
    quality = _largest([each for each in chat if not _writes_code(each)], vram_bytes)
    if quality is not None and vram_bytes is not None and len(chat) > 1:
        sizes = f"{format_size(quality.size_bytes)} of {format_size(vram_bytes)}"
        why = f"the largest one that fits the card with a context: {sizes}"
        found.append(Suggestion(role="quality", name=quality.name, why=why))
    if len(chat) > 1 and chat[0].size_bytes <= _QUICK * chat[-1].size_bytes and chat[0] != quality:
        why = f"the smallest one that chats: {format_size(chat[0].size_bytes)}"
        found.append(Suggestion(role="fast", name=chat[0].name, why=why))
    code = _largest([each for each in chat if _writes_code(each)], vram_bytes)
    if code is not None:
        found.append(Suggestion(role="code", name=code.name, why="its name says that it writes code"))
    embedders = [each for each in models if each.embeds]
    if len(embedders) == 1:
        found.append(Suggestion(role="embed", name=embedders[0].name, why="the only one that embeds"))
    return tuple(found)


def fits(model: SeenModel, vram_bytes: int | None) -> bool | None:
    """Whether its weights leave room for a context on the card; None where the card is unknown."""
    return None if vram_bytes is None else model.size_bytes <= _SHARE * vram_bytes


def _largest(models: Sequence[SeenModel], vram_bytes: int | None) -> SeenModel | None:
    """That fits, or that is there where the card is unknown."""
    fitting = [each for each in models if fits(each, vram_bytes) is not False]
    return max(fitting, key=lambda each: each.size_bytes, default=None)


def _writes_code(model: SeenModel) -> bool:
    name = model.name.casefold().rpartition("/")[2]
    return any(word in name for word in _CODE)
