"""``Ledger``: who holds how much of the card, and what would have to go for another. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from narthex.gateway.schedule import troubles
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.records import Room, Tenant
from narthex.gateway.trouble import Trouble


class Ledger:
    """The card and who is on it."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.places: dict[str, Place] = {}
        self._seen: dict[str, int] = {}  # what a tenant really held, when it was there

    def learn(self, key: str, held: int | None) -> None:
        """What a tenant really holds, in bytes; None: not known.

        It is there, so it fits: a reading above what there is for one counts as all of that. What an engine
        took that had to do with less says nothing of what it takes where there is more.
        """
        if held is None:
            return
        most, place = self.most(), self.places.get(key)
        if place is not None:
            place.held = held
            plan = place.tenant.need
            if place.tenant.elastic and most is not None and plan is not None and plan > most:
                return
        self._seen[key] = held if most is None else min(held, most)

    def most(self) -> int | None:
        """Bytes that one tenant could have alone; None where the card is not known."""
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
        if most is None or tenant.need == self.need(tenant) == 0:  # on a full card, too
            return True
        return self.taken(gone) + self.need(tenant) <= most

    def never(self, tenant: Tenant) -> Trouble | None:
        """Why it can't be had even if everything goes that may go; None where it can."""
        most = self.most()
        if most is not None and not tenant.exclusive and self.need(tenant) > most:
            return troubles.does_not_fit(self.need(tenant), self.room)
        pinned = [key for key, place in self.places.items() if _stays(place) and key != tenant.key]
        if not pinned or self.fits(tenant, [key for key in self.places if key not in pinned]):
            return None
        return troubles.pinned([self.places[key].tenant.title for key in pinned])

    def victims(self, tenant: Tenant, candidates: Sequence[Place]) -> tuple[str, ...] | None:
        """Who has to go for it: the first ones of these, and none that could stay. None where even all of
        them are not enough."""
        gone: list[str] = []
        for place in candidates:
            if self.fits(tenant, gone):
                break
            gone.append(place.tenant.key)
        if not self.fits(tenant, gone):
            return None
        for key in reversed(gone):  # an early one may be in vain once a later, larger one goes
            rest = [other for other in gone if other != key]
            if self.fits(tenant, rest):
                gone = rest
        return tuple(gone)


def _stays(place: Place) -> bool:
    return place.tenant.pinned and not place.leaving and place.state is not State.UNLOADING
