"""``--evidence CASE.json``: evidence that somebody else gathered."""

from __future__ import annotations

from pathlib import Path

import msgspec

from narthex.doctor.evidence import KINDS
from narthex.doctor.reading.text import Text
from narthex.errors import UsageError


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """The file: any subset of the kinds."""

    evidence: dict[str, str]


def read_case(path: Path) -> list[Text]:
    """Its texts. Raises UsageError where it is no case."""
    try:
        case = msgspec.json.decode(path.read_bytes(), type=Case)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{path.name} can't be read as a case: {error}.",
            hint='Give a JSON file of the form {"evidence": {"ollama_log": "…"}}.',
        ) from error
    unknown = sorted(set(case.evidence) - set(KINDS))
    if unknown:
        raise UsageError(
            f"{path.name} holds a kind of evidence that is not known: {', '.join(unknown)}.",
            hint=f"Known are: {', '.join(KINDS)}.",
        )
    return [Text(kind=kind, name=kind, data=text.encode()) for kind, text in case.evidence.items()]
