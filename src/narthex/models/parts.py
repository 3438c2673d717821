"""``find_parts``: all files of a split model, from the name of any of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from narthex.errors import ModelFileError
from narthex.models.header import Header, printable

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_MIXED = "Parts of two models seem to be mixed: get all of them from one source."


def find_parts(given: Path) -> list[Path]:
    """``[given]``, or, for a name like ``x-00002-of-00003.gguf``, all three files in order.

    Raises ModelFileError that names the first part that is not there.
    """
    found = _PART.fullmatch(given.name)
    if not found or not 1 <= int(found[2]) <= int(found[3]) or not given.exists():
        return [given]
    count = int(found[3])
    parts: list[Path] = []
    for number in range(1, count + 1):
        part = given.with_name(f"{found[1]}-{number:05d}-of-{found[3]}{found[4]}")
        if not part.exists():
            raise ModelFileError(
                f"The model has {count:,} parts, and {part.name} is not there.",
                hint=f"Put all parts into the folder {given.parent}.",
            )
        parts.append(part)
    return parts


def check_parts(given: Path, headers: Sequence[Header]) -> None:
    """Raise ModelFileError where the headers are not the parts of one model, and all of them."""
    metadata = headers[0].metadata
    claimed = metadata.get("split.count")
    if isinstance(claimed, int) and claimed > 1 and claimed != len(headers):
        raise ModelFileError(
            f"{given} is one of {claimed:,} parts, but its name does not say which.",
            hint="Give the parts their names back, as in model-00001-of-00003.gguf.",
        )
    if len(headers) == 1:
        return
    names = Counter(tensor.name for header in headers for tensor in header.tensors)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ModelFileError(f"Two parts of {given} hold the tensor «{printable(twice)}».", hint=_MIXED)
    promised = metadata.get("split.tensors.count")
    if isinstance(promised, int) and promised != names.total():
        raise ModelFileError(
            f"The parts of {given} hold {names.total():,} tensors of {promised:,}.", hint=_MIXED
        )
