"""``Ask``: one request for a model, as far as the gateway has to understand it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import msgspec

Api = Literal["ollama", "openai"]
Kind = Literal["chat", "generate", "embed", "responses"]


class Rank(IntEnum):
    """Who goes first where several wait for one place."""

    INTERACTIVE = 0
    IMAGE = 1
    EMBEDDING = 2
    BACKGROUND = 3


@dataclass(slots=True)
class Ask:
    """``fields`` holds the body's top level, each value as the bytes that came: what is not edited is passed
    on as it was. ``options`` are Ollama's, decoded; {} on /v1."""

    id: str
    api: Api
    kind: Kind
    path: str  # "/api/chat", "/v1/chat/completions"
    model: str  # as the client wrote it
    stream: bool  # absent means true on /api and false on /v1
    body: bytes
    fields: dict[str, msgspec.Raw]
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive: Any = None  # as the client wrote it; None where it did not
    empty: bool = False  # no prompt and no messages: Ollama's way to load (or with keep_alive 0 to unload)
    prompt_bytes: int = 0  # of the texts in it, for an estimate of its tokens
    task: str = ""  # OpenWebUI's name of a background call; "" for a person's own
    rank: Rank = Rank.INTERACTIVE
    client: str = ""  # name of its key, else what its User-Agent begins with
    received: float = 0.0  # on the clock of the event loop
