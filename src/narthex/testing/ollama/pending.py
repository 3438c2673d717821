"""``Request``: one request that needs a runner, and how it may end without one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.options import Wanted
from narthex.testing.ollama.runner import Runner
from narthex.testing.ollama.store import Stored


class Busy(Exception):
    """The queue of requests that need a load is full."""


class ClientLeft(asyncio.CancelledError):
    """The client closed the connection. ``status`` is for the access log; None: no line at all."""

    def __init__(self, status: int | None) -> None:
        super().__init__()
        self.status = status


@dataclass
class Request:
    """One request that needs a runner."""

    stored: Stored
    model: ModelFile
    wanted: Wanted
    keep_alive_ns: int | None
    template: bool
    runner: asyncio.Future[Runner] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    loading: bool = False

    @property
    def blob(self) -> str:
        """What runners are keyed by."""
        return str(self.model.blob)
