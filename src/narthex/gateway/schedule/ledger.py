"""``Ledger``: who holds how much of the card, and what would have to go for another. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Room, Tenant
from narthex.gateway.trouble import Trouble
from narthex.units import format_size

FOLLOW_UP_S = 1.0  # a tenant that was asked again soon after an answer is waited for so long once more


class State(StrEnum):
    """Of a tenant that is there."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(slots=True)
class Place:
    """A tenant on the card."""

    tenant: Tenant
    state: State
    since: float  # in this state
    held: int | None = None
    running: dict[int, Rank] = field(default_factory=dict)
    idle_since: float | None = None
    ready_at: float = 0.0
    last_used: float = 0.0
    draining: bool = False  # no new grants: another's time has come
    leaving: bool = False  # no new grants: it is let go once it is idle
    followed_up: bool = False  # it was asked again right after an answer

    @property
    def open(self) -> bool:
        """Whether it takes new ones, slots apart."""
        return self.state is State.READY and not self.draining and not self.leaving

    @property
    def idle(self) -> bool:
        """Ready, and without work."""
        return self.state is State.READY and not self.running

    def has_slot(self) -> bool:
        """Whether one more may run there."""
        slots = self.tenant.slots
        return slots is None or len(self.running) < slots

    def protected_until(self, residency_s: float) -> float:
        """It was loaded a moment ago and is in use between two answers: until then it is not taken away."""
        if not self.followed_up or self.idle_since is None:
            return 0.0
        return min(self.ready_at + residency_s, self.idle_since + FOLLOW_UP_S)


class Ledger:
    """The card and who is on it."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.places: dict[str, Place] = {}
        self._seen: dict[str, int] = {}  # what a tenant really held, when it was there

    def learn(self, key: str, held: int | None) -> None:
        """What a tenant really holds."""
        if held is None:
            return
        self._seen[key] = held
        if (place := self.places.get(key)) is not None:
            place.held = held

    def most(self) -> int | None:
        """What one tenant could have at most; None where the card is not known."""
        room = self.room
        return None if room.total is None else max(0, room.total - room.reserve - room.others)

    def need(self, tenant: Tenant) -> int:
        """Bytes that it is counted with: as observed, else as planned; not known, it may take everything.

        An engine that places what fits takes no more than there can be.
        """
        most = self.most() or 0
        need = self._seen.get(tenant.key, tenant.need)
        if need is None:
            return most
        return min(need, most) if tenant.elastic else need

    def taken(self, without: Iterable[str] = ()) -> int:
        """Bytes of all tenants that are there, but these."""
        left_out = set(without)
        return sum(
            place.held if place.held is not None else self.need(place.tenant)
            for key, place in self.places.items()
            if key not in left_out
        )

    def fits(self, tenant: Tenant, without: Iterable[str] = ()) -> bool:
        """Whether it has room once these are gone."""
        gone = {tenant.key, *without}
        rest = [place for key, place in self.places.items() if key not in gone]
        if tenant.exclusive:
            return not rest
        if any(place.tenant.exclusive for place in rest):
            return False
        if tenant.twin and any(place.tenant.twin == tenant.twin for place in rest):
            return False
        most = self.most()
        return most is None or self.taken(gone) + self.need(tenant) <= most

    def never(self, tenant: Tenant) -> Trouble | None:
        """Why it can't be had even alone; None where it can."""
        most, room = self.most(), self.room
        if most is None or tenant.exclusive or (need := self.need(tenant)) <= most:
            return None
        assert room.total is not None
        figures = {
            "need_bytes": need,
            "total_bytes": room.total,
            "reserve_bytes": room.reserve,
            "others_bytes": room.others,
        }
        words = (
            f"It needs {format_size(need)}; the card has {format_size(room.total)}, of which "
            f"{format_size(room.reserve)} stay free and {format_size(room.others)} are held by other programs."
        )
        if need <= room.total - room.reserve:
            return Trouble(
                503,
                "vram_held_by_others",
                words,
                remedy="`narthex host` shows who holds it; it is loaded once they let go.",
                retry_after_s=10,
                figures=figures,
            )
        return Trouble(
            507,
            "vram_does_not_fit",
            words,
            remedy="`narthex plan MODEL` shows a setting that fits: less context, fewer GPU layers, a smaller KV "
            "type.",
            figures=figures,
        )

    def victims(self, tenant: Tenant, candidates: Sequence[Place]) -> tuple[str, ...] | None:
        """The smallest set of these, the first ones first, that has to go for it; None where all of them are
        not enough."""
        gone: list[str] = []
        for place in candidates:
            if self.fits(tenant, gone):
                break
            gone.append(place.tenant.key)
        if not self.fits(tenant, gone):
            return None
        for key in list(gone):  # an early one may not be needed beside a later, larger one
            rest = [other for other in gone if other != key]
            if self.fits(tenant, rest):
                gone = rest
        return tuple(gone)
