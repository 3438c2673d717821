"""``Admission``: what ComfyUI and a study need of the conductor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from narthex.gateway.ask import Rank

Place = TypeVar("Place")


class Admission(Protocol[Place]):
    """Who gives places at the card."""

    async def acquire(
        self,
        choices: Sequence[str],
        *,
        rank: Rank = Rank.INTERACTIVE,
        client: str = "",
        wait_s: float,
        hold_s: float = 0.0,
    ) -> Place:
        """A place at the first of these that can be had. Raises Trouble. Cancelling it leaves the queue."""
        ...

    def release(self, granted: Place) -> None:
        """Give a place back. Safe to call twice."""
        ...

    def let_go(self, key: str, why: str) -> None:
        """Unload it as soon as it is idle."""
        ...

    def doubt(self) -> None:
        """What was seen does not fit what is believed: look soon."""
        ...
