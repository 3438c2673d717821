"""Reads a request into an :class:`Ask`, and writes it again for the engine with as little changed as can be.

Only the top level of a body is taken apart; each value stays the bytes that came, so that what is not edited
arrives at the engine as the client wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from narthex.gateway.ask import Api, Ask, Kind, Rank
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.trouble import Trouble

_NOW = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
_FORMER = ("use_mlock", "low_vram", "f16_kv", "logits_all", "vocab_only", "numa", "num_gqa", "embedding_only")
STATE_OPTIONS = frozenset((*_NOW, *_FORMER, "rope_frequency_base", "rope_frequency_scale"))
"""Ollama's options that belong to a load, those of old versions among them: a request that has another value
makes Ollama load the model anew."""

PATHS: dict[str, tuple[Api, Kind]] = {
    "/api/chat": ("ollama", "chat"),
    "/api/generate": ("ollama", "generate"),
    "/api/embed": ("ollama", "embed"),
    "/api/embeddings": ("ollama", "embed"),
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/completions": ("openai", "generate"),
    "/v1/embeddings": ("openai", "embed"),
    "/v1/responses": ("openai", "responses"),
}
"""The routes that ask a model."""

_READ = frozenset(("model", "stream", "options", "keep_alive", "shift", "truncate", "messages", "prompt"))
_LEAKED = frozenset(("num_ctx", "keep_alive"))  # Ollama's, which OpenWebUI writes into bodies for /v1, too
_TEXTS = ("messages", "prompt", "input", "system", "tools", "suffix", "instructions")
_PICTURES = frozenset(("images", "image_url", "input_audio", "file"))
_PICTURE_MARKS = tuple(f'"{name}"'.encode() for name in sorted(_PICTURES))
_TASK = b"### Task:"  # how OpenWebUI's own prompts begin
_UNFILLED = "{{"  # a header whose placeholder nobody replaced tells nothing
_AWAITED = frozenset(
    ("query_generation", "image_prompt_generation", "function_calling", "moa_response_generation")
)
"""OpenWebUI's calls that a person's own chat waits for: they are no background."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NAME_LENGTH = 64  # letters kept of a task's or a client's name

_T = TypeVar("_T")
_top = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


_messages = msgspec.json.Decoder(list[_Message]).decode


def read_ask(
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    request_id: str,
    client: str,
    now: float,
    task_header: str,
) -> Ask:
    """One request as the gateway understands it. ``client`` is its key's name, "" where keys are not asked.

    Raises Trouble 400 for a body that is no JSON object, says a thing twice, or has a wrong type where the
    gateway has to read; 404 for a path that asks no model.
    """
    found = PATHS.get(path)
    if found is None:
        raise Trouble(
            404, "unknown_path", f"«{path}» asks no model.", remedy=f"These do: {', '.join(PATHS)}."
        )
    api, kind = found
    fields = _fields(body)
    model = _value(fields, "model", str, "a text") or ""
    if not model.strip():
        raise _bad("The request names no model.", 'Write "model": "NAME"; GET /api/tags lists the names.')
    asked = _value(fields, "stream", bool, "true or false")
    streams = api == "ollama" and kind != "embed"
    ask = Ask(
        id=request_id,
        api=api,
        kind=kind,
        path=path,
        model=model,
        stream=kind != "embed" and (streams if asked is None else asked),
        body=body,
        fields=fields,
        prompt_bytes=sum(_text_bytes(name, fields[name]) for name in _TEXTS if name in fields),
        client=client or _name(headers.get("User-Agent", "").partition(" ")[0]),
        received=now,
    )
    if api == "ollama":
        ask.options = _value(fields, "options", dict[str, Any], "an object") or {}
        ask.keep_alive = _value(fields, "keep_alive", Any, "a duration")
        ask.empty = (kind == "chat" and _is_blank(fields.get("messages"))) or (
            kind == "generate" and _is_blank(fields.get("prompt"))
        )
    ask.task = _task(ask, headers.get(task_header))
    if kind == "embed":
        ask.rank = Rank.EMBEDDING
    elif ask.task and ask.task not in _AWAITED:
        ask.rank = Rank.BACKGROUND
    return ask


def edited(ask: Ask, offer: Offer, upstream: Upstream, *, keep_alive_s: float) -> bytes:
    """The body for an engine of the same dialect: ``model`` is the engine's own name, what changes the state
    of the engine is the offer's, and every other value is the bytes that came, in their order.

    For Ollama that is the options of :data:`STATE_OPTIONS`, ``shift`` and ``keep_alive``, which becomes
    ``keep_alive_s`` (negative: for ever); where the offer can be told to, a prompt that is too long is
    refused rather than cut, unless the client said ``truncate``.
    """
    changed: dict[str, bytes | None] = {}
    if upstream.model:
        changed["model"] = msgspec.json.encode(upstream.model)
    if ask.api == "ollama":
        changed["shift"] = None
        changed["options"] = _options(ask, offer)
        seconds = int(keep_alive_s) if keep_alive_s == int(keep_alive_s) else keep_alive_s
        changed["keep_alive"] = b"-1" if keep_alive_s < 0 else msgspec.json.encode(seconds)
        if offer.refuses_long and ask.kind != "embed" and "truncate" not in ask.fields:
            changed["truncate"] = b"false"
    else:
        changed |= dict.fromkeys(_LEAKED)
    parts: list[Any] = []
    for name, raw in ask.fields.items():
        value = changed.pop(name, raw)
        if value is not None:
            parts += (b",", msgspec.json.encode(name), b":", value)
    for name, added in changed.items():
        if added is not None:
            parts += (b",", msgspec.json.encode(name), b":", added)
    return b"{" + b"".join(parts[1:]) + b"}"


def asked_ctx(ask: Ask) -> int | None:
    """The context that a client asks for, in tokens; None where it asks for none or for nonsense."""
    value = ask.options.get("num_ctx")
    if ask.api == "openai" and "num_ctx" in ask.fields:
        value = _value(ask.fields, "num_ctx", Any, "a number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < 2**31 else None


def _options(ask: Ask, offer: Offer) -> bytes | None:
    """The client's own options without those of a load, then the offer's."""
    raw = ask.fields.get("options")
    rows: list[bytes] = []
    if ask.options and raw is not None:
        rows = [
            msgspec.json.encode(name) + b":" + bytes(value)
            for name, value in _top(raw).items()
            if name not in STATE_OPTIONS and name not in offer.options
        ]
    rows += [msgspec.json.encode(name) + b":" + msgspec.json.encode(v) for name, v in offer.options.items()]
    if not rows and raw is None:
        return None
    return b"{" + b",".join(rows) + b"}"


# reading


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    if not body.strip():
        raise _bad("The request has no body.", "Send a JSON object.")
    try:
        fields = _top(body)
        if not _whole(body, fields):
            _refuse_repeated(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _bad(f"The body is no JSON object: {error}.", "Send valid JSON, in UTF-8.") from None
    except RecursionError:
        raise _bad("The body is nested too deep.", "Send fewer levels.") from None
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


def _value(fields: Mapping[str, msgspec.Raw], name: str, kind: type[_T] | Any, words: str) -> _T | None:
    """One decoded value; None where it is absent or null."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        found: _T = msgspec.json.decode(raw, type=kind)
    except _UNREADABLE:
        raise _bad(f"«{name}» must be {words}.", "Correct it, or leave it out.") from None
    return found


def _is_blank(raw: msgspec.Raw | None) -> bool:
    if raw is None or len(raw) > _NAME_LENGTH:
        return raw is None
    return bytes(raw).translate(None, b" \t\r\n") in (b"null", b'""', b"[]")


def _text_bytes(name: str, raw: msgspec.Raw) -> int:
    """Length of the text; of pictures in messages nothing counts, since their tokens have another measure."""
    data = bytes(raw)
    if name not in ("messages", "input") or not any(mark in data for mark in _PICTURE_MARKS):
        return len(data)
    try:
        return sum(_part_bytes(row) for row in _rows(data))
    except _UNREADABLE:
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


def _task(ask: Ask, header: str | None) -> str:
    """What OpenWebUI calls it: by the header, else «task» where it has the shape of its own calls: not
    streamed, one message of a user that begins so, no tools. Another prompt template hides that."""
    if header is not None and not header.startswith(_UNFILLED):
        return _name(header)
    raw = ask.fields.get("messages")
    if raw is None or ask.kind != "chat" or ask.stream or _TASK not in bytes(raw):
        return ""
    if not _is_blank(ask.fields.get("tools")):
        return ""
    try:
        rows = _messages(raw)
    except _UNREADABLE:
        return ""
    people = [row for row in rows if row.role != "system"]
    if len(people) != 1 or people[0].role != "user" or not isinstance(people[0].content, str):
        return ""
    return "task" if people[0].content.startswith(_TASK.decode()) else ""


def _name(text: str) -> str:
    return "".join(letter for letter in text.strip() if letter.isprintable())[:_NAME_LENGTH]


def _bad(message: str, remedy: str) -> Trouble:
    return Trouble(400, "bad_request", message, remedy=remedy)


def _twice(name: str) -> Trouble:
    return _bad(f"«{_name(name)}» stands twice in the body.", "Say it once.")
