"""``find_projector``: the file beside a model that lets it see or hear."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

from narthex.errors import ModelFileError
from narthex.models.header import read_metadata

_SUFFIX = ".gguf"
_LOOKED_AT = 16  # files whose first bytes are read, so that a folder of models costs nothing
_PEEK = 4096  # bytes; general.architecture is the first key that converters write


def find_projector(model: Path, embedding_length: int | None) -> str | None:
    """The path of a projector in the model's folder, or None.

    Files named ``mmproj`` come first, then others whose first bytes name the architecture ``clip``; either
    must fit the model's embedding, so that a neighbour's projector is not taken for this model's.
    """
    try:
        with os.scandir(model.parent) as entries:
            # only regular files: to open a pipe of that name would wait for ever
            names = sorted(
                entry.name for entry in entries if entry.name.lower().endswith(_SUFFIX) and entry.is_file()
            )
    except OSError:
        return None
    own = model.name.lower()
    likely = [name for name in names if "mmproj" in name.lower()]
    others = [name for name in names if name not in likely and name != model.name][:_LOOKED_AT]
    likely.sort(key=lambda name: -_shared_letters(own, name.lower().replace("mmproj", "").lstrip("-_.")))
    for name in [*likely, *(name for name in others if _starts_as_projector(model.with_name(name)))]:
        if _fits(path := model.with_name(name), embedding_length):
            return str(path)
    return None


def _shared_letters(first: str, second: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _starts_as_projector(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"general.architecture\x08\0\0\0\x04\0\0\0\0\0\0\0clip" in file.read(_PEEK)
    except OSError:
        return False


def _fits(path: Path, embedding_length: int | None) -> bool:
    try:
        metadata = read_metadata(path)
    except ModelFileError:
        return False
    if metadata.get("general.architecture") != "clip" and metadata.get("general.type") != "mmproj":
        return False
    width = metadata.get("clip.vision.projection_dim", metadata.get("clip.audio.projection_dim"))
    if not isinstance(width, int) or not embedding_length:
        return True
    return width % embedding_length == 0  # some projectors feed several layers at once
