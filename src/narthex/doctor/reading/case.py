"""``--evidence CASE.json``: evidence that somebody else gathered, or that a bundle carried here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from narthex.doctor.evidence import KINDS, Evidence, Reading
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.reading.files import all_of
from narthex.doctor.reading.kinds import kind_of_text
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.sign import Sign
from narthex.errors import UsageError

_FORM = 'Give a JSON file of the form {"evidence": {"ollama_log": "…"}}.'
_SAMPLE = 64 << 10
T = TypeVar("T")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One of several texts of a kind, as a bundle holds them."""

    kind: str
    name: str
    text: str


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds. ``live``: its readings are of one machine at one time."""

    texts: tuple[Text, ...] = ()
    readings: tuple[Reading, ...] = ()
    facts: tuple[Fact, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    live: bool = False

    def evidence(self, signs: Sequence[Sign]) -> Evidence:
        """As rules look at it."""
        return read_evidence(
            self.texts,
            signs,
            readings=self.readings,
            facts=self.facts,
            skipped=self.skipped,
            live=self.live,
        )


def read_case(path: Path, stdin: BinaryIO | None = None) -> list[Text]:
    """Its texts only. Raises UsageError where it is no case."""
    return list(load_case(path, stdin).texts)


def load_case(path: Path, stdin: BinaryIO | None = None) -> Case:
    """A case: ``evidence`` with a text per kind, and what a bundle adds: ``sources`` with their names,
    ``readings``, ``facts``, ``skipped`` and ``live``. ``-`` is what comes on stdin. Raises UsageError where
    it is no case."""
    name = "stdin" if str(path) == "-" else str(path)
    row = _decoded(_bytes(path, stdin), name)
    evidence = row.get("evidence")
    if not isinstance(evidence, dict):
        what = "holds no «evidence»" if evidence is None else "has an «evidence» that is no object"
        raise UsageError(f"{name} {what}.", hint=_FORM)
    skipped: list[Skipped] = []
    texts = [
        text for kind, value in evidence.items() if (text := _text(kind, value, name, skipped)) is not None
    ]
    for source in _rows(row.get("sources"), Source, "sources", name):
        if (text := _text(source.kind, source.text, name, skipped)) is not None:
            texts.append(msgspec.structs.replace(text, name=source.name))
    live = row.get("live", False)
    if not isinstance(live, bool):
        raise UsageError(f"In {name} «live» is neither true nor false.", hint="Leave it out, or correct it.")
    return Case(
        texts=tuple(texts),
        readings=_rows(row.get("readings"), Reading, "readings", name),
        facts=_rows(row.get("facts"), Fact, "facts", name),
        skipped=(*skipped, *_rows(row.get("skipped"), Skipped, "skipped", name)),
        live=live,
    )


def _bytes(path: Path, stdin: BinaryIO | None) -> bytes:
    if str(path) == "-":
        return all_of(stdin or sys.stdin.buffer, "standard input")
    try:
        with path.open("rb") as file:
            return all_of(file, str(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist.", hint="Check the name of the case file.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder.", hint=_FORM) from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.", hint=_FORM) from error


def _decoded(data: bytes, name: str) -> dict[str, Any]:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):  # as PowerShell writes it
            data = data.decode(encoding, "replace").encode("utf-8", "replace")
            break
    if not data.strip():
        raise UsageError(f"{name} is empty.", hint=_FORM)
    try:
        row = _json(data)
    except (ValueError, RecursionError) as error:
        hint = f"{_FORM} Plain logs are read with --logs."
        raise UsageError(f"{name} is no valid JSON: {error}.", hint=hint) from error
    if not isinstance(row, dict):
        raise UsageError(f"{name} holds no JSON object.", hint=_FORM)
    return row


def _json(data: bytes) -> Any:
    """Half letters and bytes that are no UTF-8 come from logs; they are no reason to refuse the rest."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(data.decode("utf-8", "replace"))


def _text(kind: str, value: Any, name: str, skipped: list[Skipped]) -> Text | None:
    """One text; a kind that is not known is read as what it looks like."""
    if value is None:
        skipped.append(Skipped(what=kind, why="It is null in the case file."))
        return None
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = "\n".join(one.removesuffix("\n") for one in value)
    if not isinstance(value, str):
        hint = f"Every kind of evidence holds a text. {_FORM}"
        raise UsageError(f"In {name} «{kind}» is no text.", hint=hint)
    data = value.encode("utf-8", "replace")
    if kind in KINDS:
        return Text(kind=kind, name=kind, data=data)
    guess = kind_of_text([value[:_SAMPLE]], kind)
    skipped.append(Skipped(what=kind, why=f"This kind of evidence is not known; it was read as {guess}."))
    return Text(kind=guess, name=kind, data=data)


def _rows(rows: Any, kind: type[T], what: str, name: str) -> tuple[T, ...]:
    """What a bundle adds."""
    if rows is None:
        return ()
    try:
        return tuple(msgspec.convert(rows, list[kind]))  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        hint = "Give it as narthex doctor bundle writes it."
        raise UsageError(f"The «{what}» of {name} can't be read: {error}.", hint=hint) from error
