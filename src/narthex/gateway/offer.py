"""``Offer``: one model with one setting on one backend, which can be loaded and asked."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from narthex.knobs import KnobValues

Backend = Literal["ollama", "llama-server", "comfyui", "study"]
"""The last two are tenants of the card like any model, and are not asked for answers."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may be sent to. Two offers differ where loading one after the other is a reload."""

    key: str  # unique and stable for model, setting and backend; the scheduler's name of it
    backend: Backend
    name: str  # what clients call the model: "deepseek-r1:32b", a profile's or a file's name
    model: str  # Ollama: the name that is asked; llama-server: the file's path
    twin: str  # offers with one twin never live side by side: Ollama holds one blob once
    options: dict[str, Any] = {}  # Ollama: what each request carries, so that nobody causes a reload
    knobs: KnobValues | None = None  # None: the engine's and the model's own settings
    num_ctx: int | None = None  # tokens of one slot
    slots: int | None = None  # requests at the same time; None: not known, so not limited here
    need_bytes: int | None = None  # VRAM, or main memory on a machine without a card; None: not known
    need_source: str = "unknown"  # "planned", "soak", "observed", "unknown"
    elastic: bool = False  # the engine places what fits: it loads with less, and slower
    profile: str | None = None  # its profile's name in the journal
    proven: bool = False
    digest: str = ""  # Ollama: of the manifest
    capabilities: tuple[str, ...] = ()  # "completion", "embedding", "tools", "vision", "thinking"; () unknown
    engine_args: tuple[str, ...] = ()  # llama-server: given to the start beside the knobs
    refuses_long: bool = False  # Ollama since 0.12.6: can be told to refuse a prompt that it would cut


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """Where the requests for a loaded offer go."""

    url: str  # "http://127.0.0.1:11434", no slash at the end
    dialect: Backend  # "ollama" speaks /api and /v1, "llama-server" only /v1
    model: str  # the name to ask for there; "" where it has one model only
