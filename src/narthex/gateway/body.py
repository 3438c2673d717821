"""The top level of a body: its names, and each value as the bytes that came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from narthex.gateway.trouble import Trouble
from narthex.models.header import printable

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are not what they should be."""

_READ = frozenset(("model", "stream", "options", "keep_alive", "shift", "truncate", "messages", "prompt"))
_PICTURES = frozenset(("images", "image_url", "input_audio", "file"))
_PICTURE_MARKS = tuple(f'"{name}"'.encode() for name in sorted(_PICTURES))
_SHORT = 64  # bytes of a value that may be blank, and letters of a name that is shown

_T = TypeVar("_T")
_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The members of an object, each value as it stands there. Raises what :data:`UNREADABLE` names."""


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields in their order. A name that Ollama takes for a known one in other letters is written as
    that one. Raises Trouble 400 where it is no JSON object or a name stands in it twice."""
    if not body.strip():
        raise bad_request("The request has no body.", "Send a JSON object.")
    try:
        fields = members(body)
        if not _whole(body, fields):
            _refuse_repeated(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise bad_request(f"The body is no JSON object: {error}.", "Send valid JSON, in UTF-8.") from None
    except RecursionError:
        raise bad_request("The body is nested too deep.", "Send fewer levels.") from None
    if any(name not in _READ and name.casefold() in _READ for name in fields):
        fields = dict(_folded(fields))
    return fields


def _whole(body: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether these fields in this order are the whole body, so that no name stands in it twice. False where
    a name is written with escapes, too: then it has to be read more closely."""
    place = _skip(body, 0) + 1
    for name, raw in fields.items():
        place = _skip(body, place)
        key = b'"' + name.encode() + b'"'
        if not body.startswith(key, place):
            return False
        place = _skip(body, _skip(body, place + len(key)) + 1)
        value = bytes(raw)
        if not body.startswith(value, place):
            return False
        place = _skip(body, place + len(value)) + 1  # behind the comma, or the last brace
    return not body[place:].strip() and (bool(fields) or body.split() in ([b"{}"], [b"{", b"}"]))


def _skip(body: bytes, place: int) -> int:
    while body[place : place + 1] in (b" ", b"\n", b"\r", b"\t"):
        place += 1
    return place


def _refuse_repeated(body: bytes) -> None:
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # the outermost object comes last

    json.loads(body, object_pairs_hook=keep)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _twice(name)
        seen.add(name)


def _folded(fields: Mapping[str, msgspec.Raw]) -> Iterator[tuple[str, msgspec.Raw]]:
    """Ollama takes «Model» for «model»; so it has to be edited as such."""
    seen: set[str] = set()
    for name, raw in fields.items():
        plain = name.casefold() if name.casefold() in _READ else name
        if plain in seen:
            raise _twice(plain)
        seen.add(plain)
        yield plain, raw


def value_of(fields: Mapping[str, msgspec.Raw], name: str, kind: type[_T] | Any, words: str) -> _T | None:
    """One decoded value; None where it is absent or null. Raises Trouble 400: it must be ``words``."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        found: _T = msgspec.json.decode(raw, type=kind)
    except UNREADABLE:
        raise bad_request(f"«{name}» must be {words}.", "Correct it, or leave it out.") from None
    return found


def is_blank(raw: msgspec.Raw | None) -> bool:
    """Whether it is absent, null, or an empty text or list."""
    if raw is None or len(raw) > _SHORT:
        return raw is None
    return bytes(raw).translate(None, b" \t\r\n") in (b"null", b'""', b"[]")


def text_bytes(name: str, raw: msgspec.Raw) -> int:
    """Length of the text; of pictures in messages nothing counts, since their tokens have another measure."""
    data = bytes(raw)
    if name not in ("messages", "input") or not any(mark in data for mark in _PICTURE_MARKS):
        return len(data)
    try:
        return sum(_part_bytes(row) for row in _rows(data))
    except UNREADABLE:
        return len(data)


def _part_bytes(row: Mapping[str, msgspec.Raw]) -> int:
    count = 0
    for name, raw in row.items():
        if name in _PICTURES:
            continue
        parts = bytes(raw) if name == "content" else b""
        if parts[:1] == b"[":
            count += sum(_part_bytes(part) for part in _rows(parts))
        else:
            count += len(raw)
    return count


def bad_request(message: str, remedy: str) -> Trouble:
    """400: what is wrong with the body, and the way out."""
    return Trouble(400, "bad_request", message, remedy=remedy)


def _twice(name: str) -> Trouble:
    return bad_request(f"«{printable(name)[:_SHORT]}» stands twice in the body.", "Say it once.")
