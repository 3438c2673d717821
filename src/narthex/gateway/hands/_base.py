"""What a hand is to the conductor: it loads and unloads what the scheduler decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.trouble import Trouble


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load is. ``share`` in 0…1, None where nothing tells."""

    stage: str  # "loading", "waiting for memory"
    share: float | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that is really there: its VRAM (None: nothing tells) and whether it works right now."""

    key: str
    held: int | None = None
    busy: bool | None = None
    forever: bool = False  # pinned at the engine by somebody


Told = Callable[[Progress], None]


class Hand(Protocol):
    """One backend. Nothing here waits for a client: a client that leaves ends no load."""

    async def load(self, offer: Offer, told: Told) -> int | None:
        """Load it and return the VRAM it holds, None where nothing tells. Raises Trouble with the cause."""
        ...

    async def unload(self, offer: Offer) -> None:
        """Let it go; returns once its memory is free, or when that can't be told."""
        ...

    def upstream(self, offer: Offer) -> Upstream:
        """Where to send its requests now."""
        ...

    async def look(self) -> tuple[Seen, ...]:
        """What is really loaded there. Raises Trouble where that can't be told: unknown is not empty."""
        ...

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        """Why a request that was under way failed. ``words``: what the engine or the connection said;
        ``status`` None: no answer came, or it broke off."""
        ...

    async def close(self) -> None:
        """End what this hand started; leave what it did not."""
        ...
