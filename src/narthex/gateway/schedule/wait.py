"""``Wait``: a ticket in the queue, and the choice that it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Rules, Ticket
from narthex.gateway.trouble import Trouble

MOMENT_S = 3.0
"""So long a reading by which nothing fits makes nobody leave the queue; the card is read each second."""


@dataclass(slots=True)
class Wait:
    """``number`` counts arrivals: the smaller one came first."""

    ticket: Ticket
    number: int
    since: float
    key: str = ""  # the choice that it waits for now
    instead: str = ""  # why it is not the first one
    passed: dict[str, Trouble] = field(default_factory=dict)  # choices whose load failed for it
    no_room_since: float | None = None  # since then what it waits for would not fit any more

    def starves(self, rules: Rules, now: float) -> bool:
        """It has waited so long that rank no longer counts."""
        return now >= self.since + rules.starvation_s

    def held_back(self, rules: Rules, now: float) -> bool:
        """Its time has not come yet."""
        return now < self.ticket.not_before and not self.starves(rules, now)

    @property
    def background(self) -> bool:
        """Nobody sits there and waits."""
        return self.ticket.rank is Rank.BACKGROUND


def in_turn(waits: Iterable[Wait], rules: Rules, now: float) -> list[Wait]:
    """Who has waited too long goes first, by arrival; then by rank, then by arrival."""

    def turn(wait: Wait) -> tuple[int, int]:
        return (-1 if wait.starves(rules, now) else int(wait.ticket.rank), wait.number)

    return sorted(waits, key=turn)
