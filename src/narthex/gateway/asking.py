"""Reads a request into an :class:`Ask`, and writes it again for the engine with as little changed as can be.

Only the top level of a body is taken apart; each value stays the bytes that came, so that what is not edited
arrives at the engine as the client wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from narthex.gateway.ask import Api, Ask, Kind, Rank
from narthex.gateway.body import UNREADABLE, bad_request, fields_of, is_blank, members, text_bytes, value_of
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

_LEAKED = frozenset(("num_ctx", "keep_alive"))  # Ollama's, which OpenWebUI writes into bodies for /v1, too
_TEXTS = ("messages", "prompt", "input", "system", "tools", "suffix", "instructions")
_TASK = b"### Task:"  # how OpenWebUI's own prompts begin
_UNFILLED = "{{"  # a header whose placeholder nobody replaced tells nothing
_AWAITED = frozenset(
    ("query_generation", "image_prompt_generation", "function_calling", "moa_response_generation")
)
"""OpenWebUI's calls that a person's own chat waits for: they are no background."""
_NAME_LENGTH = 64  # letters kept of a task's or a client's name


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
    fields = fields_of(body)
    model = value_of(fields, "model", str, "a text") or ""
    if not model.strip():
        raise bad_request(
            "The request names no model.", 'Write "model": "NAME"; GET /api/tags lists the names.'
        )
    asked = value_of(fields, "stream", bool, "true or false")
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
        prompt_bytes=sum(text_bytes(name, fields[name]) for name in _TEXTS if name in fields),
        client=client or _name(headers.get("User-Agent", "").partition(" ")[0]),
        received=now,
    )
    if api == "ollama":
        ask.options = value_of(fields, "options", dict[str, Any], "an object") or {}
        ask.keep_alive = value_of(fields, "keep_alive", Any, "a duration")
        ask.empty = (kind == "chat" and is_blank(fields.get("messages"))) or (
            kind == "generate" and is_blank(fields.get("prompt"))
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


def _options(ask: Ask, offer: Offer) -> bytes | None:
    """The client's own options without those of a load, then the offer's."""
    raw = ask.fields.get("options")
    rows: list[bytes] = []
    if ask.options and raw is not None:
        rows = [
            msgspec.json.encode(name) + b":" + bytes(value)
            for name, value in members(raw).items()
            if name not in STATE_OPTIONS and name not in offer.options
        ]
    rows += [msgspec.json.encode(name) + b":" + msgspec.json.encode(v) for name, v in offer.options.items()]
    if not rows and raw is None:
        return None
    return b"{" + b",".join(rows) + b"}"


def _task(ask: Ask, header: str | None) -> str:
    """What OpenWebUI calls it: by the header, else «task» where it has the shape of its own calls: not
    streamed, one message of a user that begins so, no tools. Another prompt template hides that."""
    if header is not None and not header.startswith(_UNFILLED):
        return _name(header)
    raw = ask.fields.get("messages")
    if raw is None or ask.kind != "chat" or ask.stream or _TASK not in bytes(raw):
        return ""
    if not is_blank(ask.fields.get("tools")):
        return ""
    try:
        rows = _messages(raw)
    except UNREADABLE:
        return ""
    people = [row for row in rows if row.role != "system"]
    if len(people) != 1 or people[0].role != "user" or not isinstance(people[0].content, str):
        return ""
    return "task" if people[0].content.startswith(_TASK.decode()) else ""


def _name(text: str) -> str:
    return "".join(letter for letter in text.strip() if letter.isprintable())[:_NAME_LENGTH]
