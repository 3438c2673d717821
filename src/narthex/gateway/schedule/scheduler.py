"""``Scheduler``: who gets the card next. It owns all state, takes events and returns effects; it does nothing
itself and reads no clock. See design.md beside it for what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.ledger import Ledger, Place, State
from narthex.gateway.schedule.records import (
    Effect,
    Forecast,
    Grant,
    Holding,
    Load,
    Refuse,
    Room,
    Rules,
    Snapshot,
    Tenant,
    Ticket,
    Unload,
    Waiting,
)
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration


@dataclass(slots=True)
class _Wait:
    """A ticket in the queue."""

    ticket: Ticket
    since: float
    key: str = ""  # the choice that it waits for now
    instead: str = ""  # why it is not the first one
    failed: tuple[str, ...] = ()  # choices whose load failed while it waited: it asks for none of them twice


class Scheduler:
    """One card's. Times are seconds of the caller's clock and never go back."""

    def __init__(self, rules: Rules, room: Room) -> None:
        self._rules = rules
        self._ledger = Ledger(room)
        self._places = self._ledger.places
        self._tenants: dict[str, Tenant] = {}
        self._waits: dict[int, _Wait] = {}
        self._granted: dict[int, str] = {}
        self._failed: dict[str, tuple[Trouble, float]] = {}
        self._evicted_for: dict[str, list[str]] = {}
        self._restore: dict[str, str] = {}  # what had to go → for whom
        self._now = 0.0  # of the last event that was looked at closely

    # what is known

    def add(self, tenant: Tenant) -> None:
        """Make a tenant known, or change its figures."""
        self._tenants[tenant.key] = tenant
        if (place := self._places.get(tenant.key)) is not None:
            place.tenant = tenant

    def change(self, rules: Rules) -> None:
        """Another policy; what runs and waits stays."""
        self._rules = rules

    def is_ready(self, key: str) -> bool:
        """Whether it is loaded."""
        place = self._places.get(key)
        return place is not None and place.state is State.READY

    # tickets

    def submit(self, ticket: Ticket, now: float) -> list[Effect]:
        """A request comes."""
        if not self._waits and ticket.rank is not Rank.BACKGROUND:
            place = self._places.get(ticket.choices[0])
            if place is not None and place.open and place.has_slot():
                return [self._grant(ticket, place, now, "")]
        if len(self._waits) >= self._rules.queue:
            return [Refuse(ticket.id, _queue_full(len(self._waits)))]
        self._waits[ticket.id] = _Wait(ticket, now)
        return self._settle(now)

    def finish(self, ticket: int, now: float) -> list[Effect]:
        """A granted request is done. Nothing happens for one that is not known."""
        key = self._granted.pop(ticket, None)
        if key is None:
            return []
        place = self._places.get(key)
        if place is None or place.running.pop(ticket, None) is None:
            return []
        if not place.running:
            place.idle_since = now
        place.last_used = now
        if not self._waits and not place.leaving and not self._restore:
            return []
        return self._settle(now)

    def cancel(self, ticket: int, now: float) -> list[Effect]:
        """Whoever asked is gone. A load that is under way goes on."""
        if self._waits.pop(ticket, None) is not None:
            return self._settle(now)
        return self.finish(ticket, now)

    # what becomes of loads

    def loaded(self, key: str, held: int | None, now: float) -> list[Effect]:
        """A load ended well."""
        self._failed.pop(key, None)
        self._ready(key, held, now)
        return self._settle(now)

    def appeared(self, key: str, held: int | None, now: float) -> list[Effect]:
        """It is there without our doing. What comes while a study has the card is the study's."""
        alone = any(place.tenant.exclusive for place in self._places.values())
        if key in self._tenants and key not in self._places and not alone:
            self._ready(key, held, now)
        return self._settle(now)

    def failed(self, key: str, trouble: Trouble, now: float) -> list[Effect]:
        """A load ended badly: those who wait for it go on to their next choice, or hear why."""
        self._places.pop(key, None)
        self._restore.pop(key, None)
        if trouble.lasting:
            self._failed[key] = (trouble, now + self._rules.remember_s)
        effects: list[Effect] = []
        for wait in [wait for wait in self._waits.values() if wait.key == key]:
            wait.failed += (key,)
            if self._choose(wait, now) is not None:
                effects.append(self._refuse(wait, trouble))
            else:
                wait.instead = wait.instead or trouble.message
        return effects + self._settle(now)

    def unloaded(self, key: str, now: float) -> list[Effect]:
        """Its memory is free again."""
        self._places.pop(key, None)
        return self._settle(now)

    def vanished(self, key: str, trouble: Trouble | None, now: float) -> list[Effect]:
        """It is gone without our doing; who waits for it has it loaded again."""
        place = self._places.get(key)
        if place is not None and place.state is State.READY:
            del self._places[key]
        if trouble is not None and trouble.lasting:
            self._failed[key] = (trouble, now + self._rules.remember_s)
        return self._settle(now)

    def observe(self, room: Room, held: Mapping[str, int], now: float) -> list[Effect]:
        """What the card itself says."""
        changed = room != self._ledger.room
        self._ledger.room = room
        for key, size in held.items():
            if (place := self._places.get(key)) is not None and place.state is State.READY:
                self._ledger.learn(key, size)
        return self._settle(now) if changed or self._waits else []

    def release(self, key: str, why: str, now: float) -> list[Effect]:
        """Let it go as soon as it is idle."""
        place = self._places.get(key)
        if place is None or place.state is not State.READY:
            return []
        place.leaving = True
        return self._settle(now)

    # time

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        self._now = now
        effects: list[Effect] = []
        for place in list(self._places.values()):
            stay = place.tenant.keep_alive_s
            over = place.idle and place.idle_since is not None and 0 <= stay <= now - place.idle_since
            if over and not any(wait.key == place.tenant.key for wait in self._waits.values()):
                effects.append(self._unload(place, f"idle for {format_duration(stay)}", "", now))
        self._failed = {key: row for key, row in self._failed.items() if row[1] > now}
        return effects + self._settle(now)

    def wake_at(self) -> float | None:
        """When :meth:`tick` is due; None where nothing is."""
        times: list[float] = []
        for place in self._places.values():
            if place.idle and place.idle_since is not None:
                if place.tenant.keep_alive_s >= 0:
                    times.append(place.idle_since + place.tenant.keep_alive_s)
                if self._waits and (until := place.protected_until(self._rules.residency_s)):
                    times.append(until)
            if self._waits and place.running and not place.draining:
                times.append(place.ready_at + self._rules.residency_s)
        for wait in self._waits.values():
            if wait.ticket.until is not None:
                times.append(wait.ticket.until)
            times += [wait.ticket.not_before, wait.since + self._rules.starvation_s]
        return min((time for time in times if time > self._now), default=None)

    # views

    def forecast(self, choices: Sequence[str], rank: Rank, now: float) -> Forecast:
        """What would happen to a request now; nothing is changed."""
        wait = _Wait(Ticket(id=0, choices=tuple(choices), rank=rank), now)
        trouble = self._choose(wait, now)
        if not wait.key:
            return Forecast(key=None, ready=False, trouble=trouble.text if trouble else "nothing is known")
        tenant, ahead = self._tenants[wait.key], len(self._waits)
        place = self._places.get(wait.key)
        if place is not None and place.state is State.READY:
            busy: tuple[str, ...] = () if place.open and place.has_slot() else (wait.key,)
            return Forecast(key=wait.key, ready=True, waits_for=busy, position=ahead, why=wait.instead)
        if place is not None and place.state is State.LOADING:
            return Forecast(
                key=wait.key, ready=False, waits_for=(wait.key,), position=ahead, why="it is being loaded"
            )
        evicts = self._ledger.victims(tenant, self._evictable(now, wait.key, busy=True)) or ()
        busy = tuple(key for key in evicts if not self._places[key].idle)
        return Forecast(
            key=wait.key, ready=False, evicts=evicts, waits_for=busy, position=ahead, why=wait.instead
        )

    def snapshot(self, now: float) -> Snapshot:
        """Everything at this moment."""
        return Snapshot(
            room=self._ledger.room,
            holdings=tuple(
                Holding(
                    key=key,
                    state=place.state.value,
                    held=place.held,
                    running=len(place.running),
                    since=place.since,
                    idle_since=place.idle_since if place.idle else None,
                    pinned=place.tenant.pinned,
                )
                for key, place in self._places.items()
            ),
            waiting=tuple(
                Waiting(
                    ticket=wait.ticket.id,
                    wants=wait.key,
                    rank=wait.ticket.rank,
                    client=wait.ticket.client,
                    since=wait.since,
                )
                for wait in self._waits.values()
            ),
            remembered=tuple((key, until) for key, (_, until) in self._failed.items()),
        )

    def check(self) -> None:
        """Raises AssertionError where the state contradicts itself; for tests."""
        assert not self._waits.keys() & self._granted.keys(), "a ticket waits and runs"
        running = [ticket for place in self._places.values() for ticket in place.running]
        assert len(running) == len(set(running)), "a ticket runs twice"
        assert set(running) <= self._granted.keys(), "a ticket runs that was not granted"
        assert sum(place.state is State.LOADING for place in self._places.values()) <= 1, "two loads"
        for place in self._places.values():
            assert place.state is State.READY or not place.running, "work where nothing is loaded"
            slots = place.tenant.slots
            assert slots is None or len(place.running) <= slots, "more work than slots"
        twins = [place.tenant.twin for place in self._places.values() if place.tenant.twin]
        assert len(twins) == len(set(twins)) or any(
            place.state is State.UNLOADING for place in self._places.values()
        ), "two twins are there"

    # choosing

    def _settle(self, now: float) -> list[Effect]:
        """After each event: refuse what is due, choose, grant, and begin what makes room."""
        self._now = now
        if not self._waits and not self._restore and not any(p.leaving for p in self._places.values()):
            return []
        effects: list[Effect] = []
        for wait in list(self._waits.values()):
            if wait.ticket.until is not None and wait.ticket.until <= now:
                effects.append(self._refuse(wait, self._too_late(wait, now)))
            elif (trouble := self._choose(wait, now)) is not None:
                effects.append(self._refuse(wait, trouble))
        order = sorted(self._waits.values(), key=lambda wait: self._turn(wait, now))
        effects += self._grants(order, now)
        effects += self._leave(now)
        effects += self._make_room([wait for wait in order if wait.ticket.id in self._waits], now)
        return effects

    def _turn(self, wait: _Wait, now: float) -> tuple[bool, int, float]:
        """Who has waited too long goes first, then by rank, then by arrival."""
        starved = self._starved(wait, now)
        return (not starved, 0 if starved else int(wait.ticket.rank), wait.since)

    def _starved(self, wait: _Wait, now: float) -> bool:
        return now - wait.since >= self._rules.starvation_s

    def _choose(self, wait: _Wait, now: float) -> Trouble | None:
        """Set the choice that it waits for; the trouble of the last one where none can be had."""
        trouble: Trouble | None = None
        first, found = wait.ticket.choices[0], ""
        for key in wait.ticket.choices:
            tenant = self._tenants.get(key)
            if tenant is None:
                trouble = trouble or Trouble(404, "model_not_found", f"«{key}» is not known.")
            elif key in wait.failed and not self.is_ready(key):
                continue
            elif (failed := self._failed.get(key)) is not None and failed[1] > now:
                trouble = failed[0]
            elif key not in self._places and (never := self._never(tenant)) is not None:
                trouble = never
            else:
                found = key
                break
        if found and self._rules.prefer_resident and not self.is_ready(found):
            rest = wait.ticket.choices[wait.ticket.choices.index(found) + 1 :]
            there = next((key for key in rest if self.is_ready(key)), None)
            if there is not None:
                wait.key, wait.instead = there, "it is loaded, and the first choice is not"
                return None
        if not found:
            wait.key = ""
            return trouble or Trouble(503, "nothing_left", "No choice is left.")
        wait.key = found
        if found != first and trouble is not None:
            wait.instead = trouble.message
        return None

    def _never(self, tenant: Tenant) -> Trouble | None:
        """Why it can't be had even if everything that may go goes."""
        if (trouble := self._ledger.never(tenant)) is not None:
            return trouble
        pinned = [key for key, place in self._places.items() if place.tenant.pinned and key != tenant.key]
        others = [key for key in self._places if key not in pinned]
        if pinned and not self._ledger.fits(tenant, others):
            return Trouble(
                503,
                "vram_pinned",
                f"There is no room beside {', '.join(pinned)}, pinned with a keep_alive of -1.",
                remedy="Ask for the pinned model with another keep_alive, or unload it.",
                retry_after_s=30,
            )
        return None

    def _grants(self, order: Sequence[_Wait], now: float) -> list[Effect]:
        effects: list[Effect] = []
        wanted = {wait.key for wait in order if wait.ticket.rank is not Rank.BACKGROUND}
        for wait in order:
            place = self._places.get(wait.key)
            if place is None or not place.open or not place.has_slot():
                continue
            if not self._starved(wait, now):
                if wait.ticket.not_before > now:
                    continue
                people = any(rank is not Rank.BACKGROUND for rank in place.running.values())
                if wait.ticket.rank is Rank.BACKGROUND and (people or wait.key in wanted):
                    continue
            del self._waits[wait.ticket.id]
            effects.append(self._grant(wait.ticket, place, now, wait.instead))
        return effects

    def _grant(self, ticket: Ticket, place: Place, now: float, instead: str) -> Grant:
        if not place.running:
            place.followed_up = place.idle_since is not None and place.last_used > place.ready_at
            place.idle_since = None
        place.running[ticket.id] = ticket.rank
        place.last_used = now
        self._granted[ticket.id] = place.tenant.key
        return Grant(ticket.id, place.tenant.key, instead)

    def _leave(self, now: float) -> list[Effect]:
        leaving = [place for place in self._places.values() if place.leaving and place.idle]
        return [self._unload(place, "it was asked to go", "", now) for place in leaving]

    # making room

    def _make_room(self, order: Sequence[_Wait], now: float) -> list[Effect]:
        """Begin one load, or the unloads that it needs, for the first that can be helped."""
        for place in self._places.values():
            place.draining = False
        if any(place.state is State.LOADING for place in self._places.values()):
            self._drain(order, now)
            return []
        tried: set[str] = set()
        for wait in order:
            if wait.key in self._places or wait.key in tried or self._holds_back(wait, now):
                continue
            tried.add(wait.key)
            tenant = self._tenants[wait.key]
            if self._ledger.fits(tenant):
                return [self._load(tenant, order, now)]
            going = [key for key, place in self._places.items() if place.state is State.UNLOADING]
            if going and self._ledger.fits(tenant, going):
                return []
            victims = self._ledger.victims(tenant, self._evictable(now, wait.key))
            if victims is not None:
                return self._evict(victims, wait, now)
            if self._starved(wait, now):
                self._drain(order, now)
                return []
        return self._bring_back(now) if not order else []

    def _holds_back(self, wait: _Wait, now: float) -> bool:
        return wait.ticket.not_before > now and not self._starved(wait, now)

    def _evictable(self, now: float, wanted_by: str, *, busy: bool = False) -> list[Place]:
        """Who may go, the first one first: those on their way already, idle ones by their last use, and with
        ``busy`` the others, too."""
        rows = []
        for place in self._places.values():
            if place.tenant.pinned or place.state is State.LOADING or place.tenant.key == wanted_by:
                continue
            if place.tenant.exclusive and place.running:
                continue
            if place.running and not busy:
                continue
            protected = place.idle and place.protected_until(self._rules.residency_s) > now
            if protected and not busy:
                continue
            rows.append(place)
        return sorted(
            rows, key=lambda row: (row.state is not State.UNLOADING, bool(row.running), row.last_used)
        )

    def _drain(self, order: Sequence[_Wait], now: float) -> None:
        """Whoever is in the way of the one that has waited too long takes nothing new."""
        first = next(
            (wait for wait in order if self._starved(wait, now) and wait.key not in self._places), None
        )
        if first is None:
            return
        tenant = self._tenants[first.key]
        for key in self._ledger.victims(tenant, self._evictable(now, first.key, busy=True)) or ():
            place = self._places[key]
            place.draining = now - place.ready_at >= self._rules.residency_s or place.idle

    def _evict(self, victims: Sequence[str], wait: _Wait, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for key in victims:
            place = self._places[key]
            if place.state is not State.READY:
                continue
            self._evicted_for.setdefault(wait.key, []).append(key)
            passing = self._tenants[wait.key].exclusive or wait.ticket.rank is Rank.IMAGE
            if passing and self._rules.restore and place.tenant.comes_back and not place.leaving:
                self._restore[key] = wait.key
            effects.append(self._unload(place, f"room for {wait.key}", wait.ticket.client, now))
        return effects

    def _load(self, tenant: Tenant, order: Sequence[_Wait], now: float) -> Load:
        clients = tuple(dict.fromkeys(wait.ticket.client for wait in order if wait.key == tenant.key))
        self._places[tenant.key] = Place(tenant=tenant, state=State.LOADING, since=now)
        self._restore.pop(tenant.key, None)
        return Load(tenant.key, clients, tuple(self._evicted_for.pop(tenant.key, ())))

    def _unload(self, place: Place, why: str, client: str, now: float) -> Unload:
        place.state, place.since, place.idle_since = State.UNLOADING, now, None
        return Unload(place.tenant.key, why, client)

    def _ready(self, key: str, held: int | None, now: float) -> None:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(tenant=self._tenants[key], state=State.READY, since=now)
        place.state, place.since, place.ready_at = State.READY, now, now
        place.idle_since = place.last_used = now
        self._ledger.learn(key, held)

    def _bring_back(self, now: float) -> list[Effect]:
        """What went for an image or a study comes back once that is over and nobody waits."""
        for key, reason in list(self._restore.items()):
            guest = self._places.get(reason)
            if guest is not None and (guest.running or guest.state is not State.READY):
                continue
            if key in self._places or key not in self._tenants or key in self._failed:
                del self._restore[key]
                continue
            tenant = self._tenants[key]
            if self._ledger.fits(tenant):
                return [self._load(tenant, (), now)]
            if guest is not None and self._ledger.fits(tenant, (reason,)):
                return [self._unload(guest, f"{key} comes back", "", now)]
            del self._restore[key]  # somebody else has the room by now
        return []

    # refusing

    def _refuse(self, wait: _Wait, trouble: Trouble) -> Refuse:
        self._waits.pop(wait.ticket.id, None)
        return Refuse(wait.ticket.id, trouble)

    def _too_late(self, wait: _Wait, now: float) -> Trouble:
        busy = [key for key, place in self._places.items() if place.running]
        waited = format_duration(now - wait.since)
        way = f"{', '.join(busy)} was busy" if busy else "the card was being made free"
        return Trouble(
            503,
            "waited_too_long",
            f"It waited {waited} for {wait.key or 'its turn'}: {way}, {len(self._waits)} waited.",
            remedy="Try again later, or ask for what is loaded (GET /api/ps).",
            retry_after_s=max(1.0, min(60.0, self._rules.starvation_s)),
        )


def _queue_full(waiting: int) -> Trouble:
    return Trouble(
        503,
        "queue_full",
        f"{waiting} requests are waiting already, and no more may ([gateway] queue).",
        remedy="Try again in a moment.",
        retry_after_s=5,
    )
