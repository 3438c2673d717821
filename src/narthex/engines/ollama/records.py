"""The records of Ollama: what its API answers, what a server is, what it holds loaded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class ApiError(Exception):
    """A request that Ollama did not grant.

    ``status`` is the HTTP status (200 where the error came in a stream), None where no answer came.
    ``text`` holds Ollama's own words, or what happened to the connection. ``lost``: the connection was
    refused or ended early, so the server may be down.
    """

    def __init__(self, text: str, *, status: int | None = None, lost: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.lost = lost


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """``details`` of a model in ``/api/tags``, ``/api/show`` and ``/api/ps``."""

    parent_model: str = ""
    format: str = ""  # "gguf", "safetensors"
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""  # "8.0B"
    quantization_level: str = ""  # "Q4_K_M", "unknown"
    context_length: int | None = None  # tags, since 0.30.0


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """One stored model: an element of ``/api/tags``."""

    name: str
    model: str = ""
    modified_at: str = ""
    size: int = 0  # bytes of all layers on disk
    digest: str = ""  # of the manifest, 64 hex digits
    details: Details = Details()
    remote_host: str = ""  # set: a stub of a cloud model, nothing runs here
    remote_model: str = ""
    capabilities: tuple[str, ...] | None = None  # since 0.30.0


class ShownTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor as ``/api/show`` lists it: ``shape`` in ggml order (fastest first), ``type`` as "Q4_K"."""

    name: str
    type: str
    shape: tuple[int, ...]


class Show(msgspec.Struct, frozen=True, kw_only=True):
    """``/api/show``: the parts that are used here."""

    modelfile: str = ""
    parameters: str = ""  # one ``key value`` a line
    template: str = ""
    details: Details = Details()
    model_info: dict[str, Any] = {}  # GGUF metadata; arrays are null unless asked with verbose
    projector_info: dict[str, Any] | None = None
    tensors: tuple[ShownTensor, ...] | None = None  # since 0.6.1
    capabilities: tuple[str, ...] | None = None  # since 0.6.4
    remote_host: str = ""


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """One loaded model: an element of ``/api/ps``. What its sizes mean depends on the era."""

    name: str
    model: str = ""
    size: int = 0
    size_vram: int | None = None  # since 0.1.42
    digest: str = ""
    details: Details = Details()
    expires_at: str = ""  # RFC 3339 with nanoseconds; stale while a request runs
    context_length: int | None = None  # of one slot, since 0.10.0

    @property
    def expires(self) -> datetime | None:
        """``expires_at`` to the microsecond; None where it can't be read."""
        from narthex.engines.ollama.names import parse_time

        return parse_time(self.expires_at)


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """The container a server runs in."""

    id: str
    name: str
    image: str


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """An Ollama that was found and asked for its version.

    ``place`` is "process" (on this machine), "container" (on this machine, through Docker) or "elsewhere":
    it answers, but its process can't be seen, as behind a tunnel; then NVML and /proc of this machine say
    nothing about it.
    """

    url: str  # "http://127.0.0.1:11434", no slash at the end
    version: str  # "0.33.0-rc2"; a self-built one says "0.0.0"
    era: str  # a letter of narthex.engines.ollama.eras.ERAS
    source: str  # "flag", "OLLAMA_HOST", "narthex.toml", "container", "usual address"
    place: str
    pid: int | None = None  # of the server, as this machine counts
    container: Container | None = None
    unit: str | None = None  # the systemd unit it belongs to: "ollama.service"
    store: str | None = None  # its models folder, where that can be read from here
    log: str = ""  # where it can be read: "docker:NAME", "journal:ollama.service", "file:PATH"; "" nowhere
    gateway: bool = False  # narthex' own gateway answers, which stands before the engines
    memory_bytes: int | None = None  # main memory that its container or unit may use; None without a limit
    env: dict[str, str] = {}  # OLLAMA_* and LLAMA_ARG_* as far as known
    env_source: str = ""  # "log", "process", "container"; "" where unknown, so defaults are assumed
    gaps: tuple[str, ...] = ()
