"""``Place``: a tenant that is on the card, with who works there."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Tenant

FOLLOW_UP_S = 1.0  # a tenant that was asked again soon after an answer is waited for so long once more


class State(StrEnum):
    """Of a tenant that is there."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(slots=True)
class Place:
    """A tenant on the card. Times are seconds of the scheduler's clock."""

    tenant: Tenant
    state: State
    since: float  # in this state
    held: int | None = None  # bytes, as observed
    running: dict[int, Rank] = field(default_factory=dict)
    idle_since: float | None = None
    ready_at: float = 0.0
    last_used: float = 0.0
    only_before: int | None = None  # it is drained: only tickets that came before this one are granted
    leaving: str = ""  # why it is let go once it is idle and nobody waits for it; "": it stays
    used: bool = False  # somebody was granted since it is there
    followed_up: bool = False  # it was asked again right after an answer

    @property
    def ready(self) -> bool:
        """Loaded."""
        return self.state is State.READY

    @property
    def idle(self) -> bool:
        """Ready, and without work."""
        return self.state is State.READY and not self.running

    def has_slot(self) -> bool:
        """Whether one more may run there."""
        slots = self.tenant.slots
        return slots is None or len(self.running) < slots

    def takes(self, number: int) -> bool:
        """Whether it is open to the ticket that came as the ``number``-th."""
        if self.state is not State.READY or not self.has_slot():
            return False
        return self.only_before is None or number < self.only_before

    def stays_until(self, residency_s: float) -> float:
        """Idle, it is not taken away before this time: it was loaded a moment ago and is in use between two
        answers. 0 where it may go at once."""
        if not self.followed_up or self.idle_since is None:
            return 0.0
        return min(self.ready_at + residency_s, self.idle_since + FOLLOW_UP_S)

    def due_at(self) -> float | None:
        """When its keep-alive ends; None while it works, or where it stays for ever."""
        if self.idle_since is None or self.state is not State.READY or self.tenant.keep_alive_s < 0:
            return None
        return self.idle_since + self.tenant.keep_alive_s
