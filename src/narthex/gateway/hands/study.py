"""``StudyHand``: a study as a tenant of the card. It loads what it measures by itself."""

from __future__ import annotations

from narthex.gateway.hands._base import Seen, Told
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble

KEY = "study"
OFFER = Offer(key=KEY, backend="study", name="a study", model="", twin="")
TENANT = Tenant(key=KEY, slots=1, exclusive=True, keep_alive_s=0.0, comes_back=False, name=OFFER.name)
"""One at a time, with nothing else on the card, and gone as soon as it is idle."""


class StudyHand:
    """There from the moment it was given the card until it gave it back."""

    def __init__(self) -> None:
        self._there = False

    async def load(self, offer: Offer, told: Told) -> int | None:
        """The card was made free for it."""
        self._there = True
        return None

    async def unload(self, offer: Offer) -> None:
        """What it loaded it unloads by itself, before it gives the card back."""
        self._there = False

    def upstream(self, offer: Offer) -> Upstream:
        """It takes no requests."""
        return Upstream(url="", dialect="study", model="")

    async def look(self) -> tuple[Seen, ...]:
        """Whether the card is its."""
        return (Seen(key=KEY, busy=True),) if self._there else ()

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        """It takes no requests, so none can fail."""
        return Trouble(status or 503, "study_running", words)

    async def close(self) -> None:
        """Nothing here was started."""
