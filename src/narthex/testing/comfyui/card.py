"""A card that is given away by the simplest rule, for tests of what asks for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from narthex.gateway.ask import Rank
from narthex.gateway.trouble import Trouble


@dataclass(eq=False)
class Place:
    """One holder's."""

    key: str
    client: str


@dataclass(eq=False)
class OneAtATime:
    """Holders of one key share the card; another key waits until they all gave it back.

    ``events`` tells what happened, in order: «+comfyui», «-comfyui».
    """

    events: list[str] = field(default_factory=list)
    holders: list[Place] = field(default_factory=list)
    doubts: int = 0
    let: list[str] = field(default_factory=list)
    _queue: deque[tuple[Place, asyncio.Future[None]]] = field(default_factory=deque)

    async def acquire(
        self,
        choices: Sequence[str],
        *,
        rank: Rank = Rank.INTERACTIVE,
        client: str = "",
        wait_s: float,
        hold_s: float = 0.0,
    ) -> Place:
        """The first choice only. Raises Trouble 503 «busy» when the time is over."""
        entry = (Place(choices[0], client), asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._serve()
        try:
            await asyncio.wait_for(entry[1], wait_s)
        except TimeoutError:
            raise Trouble(503, "busy", f"The card was busy for {wait_s:g} s.", retry_after_s=2) from None
        except asyncio.CancelledError:
            self.release(entry[0])
            raise
        finally:
            if entry in self._queue:
                self._queue.remove(entry)
        return entry[0]

    def release(self, granted: Place) -> None:
        """Give a place back."""
        if granted in self.holders:
            self.holders.remove(granted)
            self.events.append(f"-{granted.key}")
            self._serve()

    def let_go(self, key: str, why: str) -> None:
        """Remembered only."""
        self.let.append(key)

    def doubt(self) -> None:
        """Counted only."""
        self.doubts += 1

    @property
    def waiting(self) -> list[Place]:
        """Who waits, the first first."""
        return [place for place, _ in self._queue]

    def _serve(self) -> None:
        while self._queue and all(each.key == self._queue[0][0].key for each in self.holders):
            place, future = self._queue.popleft()
            if not future.done():
                self.holders.append(place)
                self.events.append(f"+{place.key}")
                future.set_result(None)
