"""``--evidence CASE.json``: evidence that somebody else gathered, or that a bundle holds."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from narthex.doctor.evidence import KINDS, Reading
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.reading.text import Text
from narthex.errors import UsageError

STDIN = Path("-")
_HINT = 'Give a JSON file of the form {"evidence": {"ollama_log": "…"}}.'


class CaseText(msgspec.Struct, frozen=True, kw_only=True):
    """One of several texts of a kind."""

    kind: str
    name: str
    text: str


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """The file: any subset of the kinds. A bundle has ``sources`` with their names, and what collectors saw
    of the machine; ``live``: it was that machine itself."""

    evidence: dict[str, str | None] | msgspec.UnsetType = msgspec.UNSET
    sources: tuple[CaseText, ...] = ()
    readings: tuple[Reading, ...] = ()
    facts: tuple[Fact, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    live: bool = False

    def texts(self) -> list[Text]:
        """Everything that is to be read."""
        named = {} if self.evidence is msgspec.UNSET else self.evidence
        rows = [(kind, kind, text) for kind, text in named.items() if text]
        rows += [(source.kind, source.name, source.text) for source in self.sources]
        return [Text(kind=kind, name=name, data=text.encode(errors="replace")) for kind, name, text in rows]


def load_case(path: Path) -> Case:
    """A case from a file; «-» is standard input. Raises UsageError where it is none."""
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        case = msgspec.json.decode(data, type=Case)
    except (OSError, msgspec.DecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{_name(path)} can't be read as a case: {why}.", hint=_HINT) from error
    if case.evidence is msgspec.UNSET and not (case.sources or case.readings):
        raise UsageError(f"{_name(path)} is no case: it has no «evidence».", hint=_HINT)
    unknown = sorted({text.kind for text in case.texts()} - set(KINDS))
    if unknown:
        raise UsageError(
            f"{_name(path)} holds a kind of evidence that is not known: {', '.join(unknown)}.",
            hint=f"Known are: {', '.join(KINDS)}.",
        )
    return case


def read_case(path: Path) -> list[Text]:
    """The texts of a case. Raises UsageError where it is none."""
    return load_case(path).texts()


def _name(path: Path) -> str:
    return "Standard input" if path == STDIN else path.name
