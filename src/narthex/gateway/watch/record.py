"""The lines of the request log: what came, what became of it, and what the card did for it. No word of a
prompt or of an answer is in them."""

from __future__ import annotations

import msgspec


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="line"):
    """``at`` is in seconds since the epoch. What is left out of a line has its default."""

    at: float


class RequestRecord(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="request"):
    """One request and its end. Unknown is None; ``at`` is when it came."""

    id: str
    api: str  # "ollama", "openai"
    path: str
    kind: str = ""  # "chat", "generate", "embed", "responses"; "" where it did not get so far
    model: str = ""  # as the client wrote it
    role: str = ""  # where it asked for one
    ran: str = ""  # the offer's name; "" where none did
    key: str = ""  # the offer's key
    choices: tuple[str, ...] = ()  # keys of what would have done, the first choice first
    profile: str | None = None
    client: str = ""
    task: str = ""  # OpenWebUI's name of a background call
    rank: int = 0  # as ``Rank``
    stream: bool = False
    status: int = 200  # 499: the client left
    cause: str = ""  # why it failed; "" where it did not
    instead: str = ""  # why not the first choice
    waited_s: float = 0.0  # for its turn, a load included
    loaded_for: bool = False  # whether a load was begun for it
    first_byte_s: float | None = None  # from the request at the engine to the first byte of its answer
    total_s: float = 0.0  # from its coming to its end
    prompt_bytes: int = 0
    bytes_out: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tps: float | None = None  # tokens per second
    decode_tps: float | None = None
    asked_ctx: int | None = None  # tokens of context that the client asked for

    @property
    def served(self) -> bool:
        """Whether a model worked on it."""
        return bool(self.key)

    @property
    def service_s(self) -> float:
        """Seconds in which it held its place at the model."""
        return max(0.0, self.total_s - self.waited_s)


class TenantFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the scheduler was told of a model: see ``Tenant``."""

    key: str
    name: str = ""
    need: int | None = None  # bytes
    slots: int | None = None
    twin: str = ""
    elastic: bool = False
    keep_alive_s: float | None = None  # None: the gateway's
    pinned: bool = False


class StartRecord(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="start"):
    """The gateway began, or read its policy again: the card and the rules that the lines below it had."""

    total: int | None = None  # bytes that it may give away
    reserve: int = 0
    settings: dict[str, float | int | str | bool | None] = {}  # of [gateway], as far as they steer
    tenants: tuple[TenantFigures, ...] = ()  # what there was to load
    resident: tuple[str, ...] = ()  # keys of what was loaded already


class LoadRecord(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="load"):
    """A load ended; ``at`` is its end. ``cause`` tells a failed one."""

    key: str
    name: str
    seconds: float
    need: int | None = None  # bytes, as planned
    held: int | None = None  # bytes, as seen
    slots: int | None = None
    twin: str = ""
    elastic: bool = False
    clients: tuple[str, ...] = ()  # who waited for it, the first first
    evicted: tuple[str, ...] = ()  # keys of what had to go
    cause: str = ""


class UnloadRecord(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="unload"):
    """A model was let go."""

    key: str
    name: str
    why: str = ""
    client: str = ""  # whose request caused it; "" where it was idle
    seconds: float | None = None  # until the memory was free


Line = RequestRecord | StartRecord | LoadRecord | UnloadRecord
