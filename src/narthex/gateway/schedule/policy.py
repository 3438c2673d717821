"""``Policy``: decides, and changes nothing. What it is given belongs to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from narthex.gateway.schedule import troubles
from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.records import Rules, Tenant
from narthex.gateway.schedule.wait import Wait
from narthex.gateway.trouble import Trouble

NOBODY = -1
"""As ``Place.only_before``: no ticket came before it."""


class Choice(NamedTuple):
    """Which one a ticket waits for. ``key`` "": none can be had, for ``trouble``."""

    key: str
    instead: str = ""
    trouble: Trouble | None = None


class Step(NamedTuple):
    """What is to be done for the waiting one: unload these, or with none of them load."""

    wait: Wait
    victims: tuple[str, ...]


class Policy:
    """One card's rules, applied to what the ledger holds."""

    def __init__(self, rules: Rules, ledger: Ledger, tenants: Mapping[str, Tenant]) -> None:
        self.rules = rules
        self._ledger, self._tenants = ledger, tenants
        self._places = ledger.places

    # which of its choices

    def choose(self, wait: Wait, failed: Mapping[str, tuple[Trouble, float]], now: float) -> Choice:
        """The first of its choices that can be had. ``failed``: remembered troubles, each until a time."""
        why, instead = None, ""
        for position, key in enumerate(wait.ticket.choices):
            ready = self._is_ready(key)
            trouble = None if ready else wait.passed.get(key) or self._out(key, failed, now)
            if trouble is None:
                loaded = "" if ready else self._resident(wait.ticket.choices[position + 1 :])
                if loaded:
                    return Choice(loaded, f"«{self.title(key)}» is not loaded, and this one is")
                return Choice(key, instead)
            why = trouble
            tried = key in wait.passed or key in failed
            instead = instead or troubles.instead_of(self.title(key), trouble, tried=tried)
        return Choice("", trouble=why)

    def _out(self, key: str, failed: Mapping[str, tuple[Trouble, float]], now: float) -> Trouble | None:
        tenant = self._tenants.get(key)
        if tenant is None:
            return troubles.unknown(key)
        if key in self._places:  # what is there or on its way is refused nobody
            return None
        row = failed.get(key)
        return row[0] if row is not None and now < row[1] else self._ledger.never(tenant)

    def lacks_room(self, key: str) -> bool:
        """Whether not even an empty card has room for what is not there."""
        tenant = self._tenants.get(key)
        return tenant is not None and key not in self._places and self._ledger.never(tenant) is not None

    def title(self, key: str) -> str:
        """What people call it."""
        tenant = self._tenants.get(key)
        return key if tenant is None else tenant.title

    def _is_ready(self, key: str) -> bool:
        place = self._places.get(key)
        return place is not None and place.ready

    def _resident(self, choices: Sequence[str]) -> str:
        if not self.rules.prefer_resident:
            return ""
        return next((key for key in choices if self._is_ready(key)), "")

    # who may be granted

    def drains(self, order: Sequence[Wait], now: float) -> dict[str, int]:
        """Tenants that only take tickets from before a number, by key: they are in the way of one that has
        waited too long, or of the first in turn where they hold the card alone.

        What was just loaded serves those who waited for that first: no load is in vain.
        """
        marks: dict[str, int] = {}
        wanted = {wait.key for wait in order}
        first = next((wait for wait in order if not wait.held_back(self.rules, now)), None)
        for key, place in self._places.items():
            alone = place.tenant.exclusive and (place.used or key not in wanted)
            if alone and first is not None and first.key != key:
                marks[key] = NOBODY
        starved = self._starved(order, now)
        if starved is None:
            return marks
        for key in self.in_the_way(starved.key, now) or ():
            place = self._places[key]
            if not place.used and key in wanted:
                continue
            if place.ready and now >= place.ready_at + self.rules.residency_s:
                marks.setdefault(key, starved.number)
        return marks

    def _starved(self, order: Sequence[Wait], now: float) -> Wait | None:
        """The first who has waited too long for something that is not there."""
        for wait in order:
            if not wait.starves(self.rules, now):
                return None  # they stand at the front
            if self._absent(wait.key):
                return wait
        return None

    def wants_room(self, order: Sequence[Wait], now: float) -> bool:
        """Whether anybody waits for something that is not there, and whose time has come."""
        return any(self._absent(wait.key) and not wait.held_back(self.rules, now) for wait in order)

    def _absent(self, key: str) -> bool:
        place = self._places.get(key)
        return place is None or place.state is State.UNLOADING

    def may_run(self, wait: Wait, place: Place, people_wait: bool, now: float) -> bool:
        """Whether it may be granted there. ``people_wait``: for the same tenant."""
        if not place.takes(wait.number) or wait.held_back(self.rules, now):
            return False
        if not wait.background or wait.starves(self.rules, now):
            return True
        return not people_wait and all(rank == wait.ticket.rank for rank in place.running.values())

    # making room

    def step(self, order: Sequence[Wait], now: float) -> Step | None:
        """What makes room for the first in turn that can be helped; None where nothing can be begun.

        One load at a time. Whoever has waited too long is not overtaken by the load of another.
        """
        if any(place.state is State.LOADING for place in self._places.values()):
            return None
        tried: set[str] = set()
        for wait in order:
            if wait.key in tried or not self._absent(wait.key) or wait.held_back(self.rules, now):
                continue
            tried.add(wait.key)
            victims = None if wait.key in self._places else self._room_for(wait.key, now)
            if victims is not None:
                return Step(wait, victims)
            if wait.starves(self.rules, now) or self._is_made(wait.key):
                return None
        return None

    def _room_for(self, key: str, now: float) -> tuple[str, ...] | None:
        """() where it fits; else who is to be unloaded for it now. None: somebody has to end first."""
        tenant = self._tenants[key]
        if self._ledger.fits(tenant):
            return ()
        if self._is_made(key):
            return None
        victims = self._ledger.victims(tenant, self._candidates(key, now, busy=False))
        if victims is None:
            return None
        return tuple(one for one in victims if self._places[one].ready)

    def _is_made(self, key: str) -> bool:
        """Whether what is being unloaded is enough."""
        going = [one for one, place in self._places.items() if place.state is State.UNLOADING]
        return bool(going) and (key in going or self._ledger.fits(self._tenants[key], going))

    def in_the_way(self, key: str, now: float) -> tuple[str, ...] | None:
        """Who has to go for it, once those that work have ended; () where it fits. None: not even that
        helps, as while a study runs."""
        tenant = self._tenants[key]
        idle = self._ledger.victims(tenant, self._candidates(key, now, busy=False))
        if idle is not None:
            return idle
        return self._ledger.victims(tenant, self._candidates(key, now, busy=True))

    def _candidates(self, key: str, now: float, *, busy: bool) -> list[Place]:
        """Who may go for it, the first one first: those on their way, those drained already (so that a drain
        does not wander), idle ones by their last use; with ``busy`` those that work or load, too."""
        residency_s = self.rules.residency_s
        rows = []
        for place in self._places.values():
            leaves = place.state is State.UNLOADING
            if place.tenant.key == key or (place.tenant.pinned and not place.leaving and not leaves):
                continue
            if place.tenant.exclusive and not (place.idle or leaves):
                continue
            if busy or leaves or (place.idle and place.stays_until(residency_s) <= now):
                rows.append(place)
        return sorted(rows, key=_goes)


def _goes(place: Place) -> tuple[bool, bool, bool, bool, float]:
    return (
        place.state is not State.UNLOADING,
        place.only_before is None,
        place.state is State.LOADING,
        bool(place.running),
        place.last_used,
    )
