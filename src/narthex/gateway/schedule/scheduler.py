"""``Scheduler``: who gets the card next. It owns all state, takes events and returns effects; it does nothing
itself and reads no clock. See design.md beside it for what it promises.

**What is bounded.** From the moment that a ticket has waited ``starvation_s``, no ticket that came after it
is granted at a tenant in its way (from the end of that one's residency on), and no load begins for one that
came after it. What it still waits for: answers under way, a load under way with those that wait for it, and
the turns of tickets that came before it, each at most a residency, the answers that run, an unload, a load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from narthex.gateway.ask import Rank
from narthex.gateway.schedule import checking, due, troubles, views
from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.policy import Choice, Policy, Step
from narthex.gateway.schedule.records import (
    Effect,
    Forecast,
    Grant,
    Load,
    Refuse,
    Room,
    Rules,
    Snapshot,
    Tenant,
    Ticket,
    Unload,
)
from narthex.gateway.schedule.returning import Returning
from narthex.gateway.schedule.wait import MOMENT_S, Wait, in_turn
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration

_ASKED = "it was asked to go"


class Scheduler:
    """One card's. Times are seconds of the caller's clock and never go back."""

    def __init__(self, rules: Rules, room: Room) -> None:
        self._rules = rules
        self._ledger = Ledger(room)
        self._places = self._ledger.places
        self._tenants: dict[str, Tenant] = {}
        self._policy = Policy(rules, self._ledger, self._tenants)
        self._waits: dict[int, Wait] = {}
        self._wanted: frozenset[str] = frozenset()  # the keys that somebody waits for
        self._granted: dict[int, str] = {}
        self._failed: dict[str, tuple[Trouble, float]] = {}
        self._evicted_for: dict[str, list[str]] = {}
        self._returning = Returning()
        self._arrivals = 0
        self._now = -inf  # when everything was looked at last
        self._quiet_until = inf  # until then time alone changes nothing
        self._stale = False  # something was changed that nobody looked at yet

    # what is known

    def add(self, tenant: Tenant) -> None:
        """Make a tenant known, or change its figures."""
        if self._tenants.get(tenant.key) == tenant:
            return
        self._tenants[tenant.key] = tenant
        if (place := self._places.get(tenant.key)) is not None:
            place.tenant = tenant
        self._doubt()

    def change(self, rules: Rules) -> None:
        """Another policy; what runs and waits stays. It counts from the next event on."""
        self._rules = self._policy.rules = rules
        self._doubt()

    def _doubt(self) -> None:
        """What is due is another question now: the next event looks, or a tick at once."""
        if self._places or self._waits:
            self._stale, self._quiet_until = True, -inf

    def is_ready(self, key: str) -> bool:
        """Whether it is loaded."""
        place = self._places.get(key)
        return place is not None and place.ready

    # tickets

    def submit(self, ticket: Ticket, now: float) -> list[Effect]:
        """A request comes. One for a warm model with a free place costs no look at the queue."""
        first = self._settle(now) if self._waits and now >= self._quiet_until else []
        place = self._places.get(ticket.choices[0])
        if place is not None and self._at_once(ticket, place):
            return [*first, self._grant(ticket, place, now, "")]
        wait = Wait(ticket, self._arrivals + 1, now)
        choice = self._policy.choose(wait, self._failed, now)
        place = self._places.get(choice.key)
        if place is not None and self._is_free(wait, place, now):
            return [*first, self._grant(ticket, place, now, choice.instead)]
        if choice.trouble is not None:
            return [*first, Refuse(ticket.id, choice.trouble)]
        if len(self._waits) >= self._rules.queue:
            return [*first, Refuse(ticket.id, troubles.queue_full(len(self._waits), self._rules.queue))]
        self._arrivals += 1
        wait.key, wait.instead = choice.key, choice.instead  # its time may be over before the next look
        self._waits[ticket.id] = wait
        return first + self._settle(now)

    def _at_once(self, ticket: Ticket, place: Place) -> bool:
        """Nobody is passed over: the tenant is open to all, and nobody waits for it."""
        return (
            place.state is State.READY
            and place.only_before is None
            and ticket.rank is not Rank.BACKGROUND
            and place.tenant.key not in self._wanted
            and place.has_slot()
        )

    def _is_free(self, wait: Wait, place: Place, now: float) -> bool:
        """Whether one that comes now is granted now; whoever waits already had the chance."""
        if self._at_once(wait.ticket, place):
            return True
        key, rules = place.tenant.key, self._rules
        ahead = (row for row in self._waits.values() if row.key == key and not row.background)
        people = any(not row.held_back(rules, now) for row in ahead)
        return self._policy.may_run(wait, place, people, now)

    def finish(self, ticket: int, now: float) -> list[Effect]:
        """A granted request is done. Nothing happens for one that is not known."""
        place = self._places.get(self._granted.pop(ticket, ""))
        if place is None or place.running.pop(ticket, None) is None:
            return []
        place.last_used = now
        if place.running:
            return self._settle(now) if place.tenant.key in self._wanted else []
        place.idle_since = now
        if self._waits or place.leaving or place.tenant.keep_alive_s == 0 or self._returning:
            return self._settle(now)
        return []

    def cancel(self, ticket: int, now: float) -> list[Effect]:
        """Whoever asked is gone. A load that is under way goes on."""
        if self._waits.pop(ticket, None) is not None:
            return self._settle(now)
        return self.finish(ticket, now)

    # what becomes of loads

    def loaded(self, key: str, held: int | None, now: float) -> list[Effect]:
        """A load ended well; ``held`` in bytes."""
        place = self._places.get(key)
        if place is None or place.state is State.LOADING:
            self._be_ready(key, held, now)
        return self._settle(now)

    def appeared(self, key: str, held: int | None, now: float) -> list[Effect]:
        """It is there without our doing. What comes while a study has the card is the study's."""
        alone = any(place.tenant.exclusive for place in self._places.values())
        if key in self._tenants and key not in self._places and not alone:
            self._be_ready(key, held, now)
            self._places[key].used = True
        return self._settle(now)

    def failed(self, key: str, trouble: Trouble, now: float) -> list[Effect]:
        """A load ended badly: those who wait for it go on to their next choice, or hear why."""
        place = self._places.get(key)
        if place is not None and place.state is State.LOADING:
            del self._places[key]
            self._returning.forget(key)
            self._remember(key, trouble, now)
            for wait in self._waits.values():
                if wait.key == key:
                    wait.passed[key] = trouble
        return self._settle(now)

    def unloaded(self, key: str, now: float) -> list[Effect]:
        """Its memory is free again."""
        place = self._places.get(key)
        if place is not None and place.state is State.UNLOADING:
            del self._places[key]
        return self._settle(now)

    def vanished(self, key: str, trouble: Trouble | None, now: float) -> list[Effect]:
        """It is gone without our doing. Who waits for it has it loaded again; who runs there ends as it
        ends."""
        place = self._places.get(key)
        if place is not None and place.state is State.READY:
            del self._places[key]
            if trouble is not None:
                self._remember(key, trouble, now)
        return self._settle(now)

    def observe(self, room: Room, held: Mapping[str, int], now: float) -> list[Effect]:
        """What the card itself says; ``held`` in bytes by key."""
        changed = room != self._ledger.room
        self._ledger.room = room
        for key, size in held.items():
            if self.is_ready(key):
                self._ledger.learn(key, size)
        return self._settle(now) if changed or self._waits else []

    def release(self, key: str, why: str, now: float) -> list[Effect]:
        """Let it go as soon as it is idle and nobody waits for it."""
        self._returning.forget(key)
        place = self._places.get(key)
        if place is not None and place.state is not State.UNLOADING:
            place.leaving = why or _ASKED
        return self._settle(now)

    def _remember(self, key: str, trouble: Trouble, now: float) -> None:
        if trouble.lasting:
            self._failed[key] = (trouble, now + self._rules.remember_s)

    def _be_ready(self, key: str, held: int | None, now: float) -> None:
        begun = self._places.get(key)
        place = Place(tenant=self._tenants[key], state=State.READY, since=now)
        place.leaving = begun.leaving if begun is not None else ""
        place.ready_at = place.idle_since = place.last_used = now
        self._places[key] = place
        self._failed.pop(key, None)
        self._returning.forget(key)
        self._ledger.learn(key, held)

    # time

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        return self._settle(now)

    def wake_at(self) -> float | None:
        """When :meth:`tick` is due; None where nothing is."""
        if self._stale:
            return self._now
        return due.at(self._places.values(), self._waits.values(), self._failed, self._rules, self._now)

    # views

    def forecast(self, choices: Sequence[str], rank: Rank, now: float) -> Forecast:
        """What would happen to a request now; nothing is changed."""
        wait = Wait(Ticket(id=0, choices=tuple(choices), rank=rank), self._arrivals + 1, now)
        choice = self._policy.choose(wait, self._failed, now)
        place = self._places.get(choice.key)
        free = place is not None and self._is_free(wait, place, now)
        if choice.trouble is None and not free and len(self._waits) >= self._rules.queue:
            choice = Choice("", trouble=troubles.queue_full(len(self._waits), self._rules.queue))
        order = in_turn([*self._waits.values(), wait], self._rules, now)
        ahead = 0 if free else order.index(wait)
        return views.forecast(choice, now, ahead, self._ledger, self._policy, free=free)

    def snapshot(self, now: float) -> Snapshot:
        """Everything at this moment."""
        return views.snapshot(self._ledger, self._waits.values(), self._failed, now)

    def check(self) -> None:
        """Raises AssertionError where the state contradicts itself; for tests."""
        checking.check(self._ledger, self._waits, self._granted)

    # after each event

    def _settle(self, now: float) -> list[Effect]:
        """Refuse what is due, choose, grant, let go, and begin what makes room."""
        self._now, self._stale = now, False
        self._failed = {key: row for key, row in self._failed.items() if now < row[1]}
        effects = self._refusals(now)
        order = in_turn(self._waits.values(), self._rules, now)
        self._drain(order, now)
        if granted := self._grants(order, now):
            effects += granted
            order = [wait for wait in order if wait.ticket.id in self._waits]
            self._drain(order, now)  # what was just loaded has served those who waited for it
        self._wanted = frozenset(wait.key for wait in order)
        self._evicted_for = {key: gone for key, gone in self._evicted_for.items() if key in self._wanted}
        effects += self._let_go(now)
        if (step := self._policy.step(order, now)) is not None:
            effects += self._take(step, order, now)
        elif not self._policy.wants_room(order, now):
            effects += self._bring_back(now)
        self._quiet_until = self.wake_at() or inf
        return effects

    def _refusals(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for ticket, wait in list(self._waits.items()):
            if wait.ticket.until is not None and wait.ticket.until <= now:
                effects.append(Refuse(ticket, self._too_late(wait, now)))
                del self._waits[ticket]
                continue
            choice = self._choose(wait, now)
            if choice.trouble is not None:
                effects.append(Refuse(ticket, choice.trouble))
                del self._waits[ticket]
            wait.key, wait.instead = choice.key, choice.instead
        return effects

    def _choose(self, wait: Wait, now: float) -> Choice:
        """It keeps what it waits for while that lacks room for a moment only, as by one high reading."""
        choice = self._policy.choose(wait, self._failed, now)
        failed = wait.key in wait.passed or wait.key in self._failed
        if choice.key == wait.key or failed or not self._policy.lacks_room(wait.key):
            wait.no_room_since = None
        elif wait.no_room_since is None:
            wait.no_room_since = now
        if wait.no_room_since is not None and now < wait.no_room_since + MOMENT_S:
            return Choice(wait.key, wait.instead)
        return choice

    def _drain(self, order: Sequence[Wait], now: float) -> None:
        marks = self._policy.drains(order, now)
        for key, place in self._places.items():
            place.only_before = marks.get(key)

    def _grants(self, order: Sequence[Wait], now: float) -> list[Effect]:
        effects: list[Effect] = []
        people = {wait.key for wait in order if not wait.background and not wait.held_back(self._rules, now)}
        for wait in order:
            place = self._places.get(wait.key)
            if place is None or not self._policy.may_run(wait, place, wait.key in people, now):
                continue
            del self._waits[wait.ticket.id]
            effects.append(self._grant(wait.ticket, place, now, wait.instead))
        return effects

    def _grant(self, ticket: Ticket, place: Place, now: float, instead: str) -> Grant:
        if not place.running:
            place.followed_up = place.used
            place.idle_since = None
        place.used = True
        place.running[ticket.id] = ticket.rank
        place.last_used = now
        self._granted[ticket.id] = place.tenant.key
        return Grant(ticket.id, place.tenant.key, instead)

    def _let_go(self, now: float) -> list[Effect]:
        """Idle ones whose time is over, and those that were asked to go."""
        effects: list[Effect] = []
        for key, place in self._places.items():
            if not place.idle or key in self._wanted:
                continue
            over = place.due_at()
            if place.leaving:
                effects.append(self._unload(place, place.leaving, "", now))
            elif over is not None and over <= now:
                stay = format_duration(place.tenant.keep_alive_s)
                effects.append(self._unload(place, f"idle for {stay}", "", now))
        return effects

    # making room

    def _take(self, step: Step, order: Sequence[Wait], now: float) -> list[Effect]:
        if not step.victims:
            return [self._load(step.wait.key, order, now)]
        guest, rank = self._tenants[step.wait.key], step.wait.ticket.rank
        passing = self._rules.restore and (guest.exclusive or rank is Rank.IMAGE)
        effects: list[Effect] = []
        for key in step.victims:
            place = self._places[key]
            self._evicted_for.setdefault(guest.key, []).append(key)
            if passing and place.tenant.comes_back and not place.leaving:
                self._returning.owe(key, guest.key)
            effects.append(self._unload(place, f"room for «{guest.title}»", step.wait.ticket.client, now))
        return effects

    def _load(self, key: str, order: Sequence[Wait], now: float) -> Load:
        clients = tuple(dict.fromkeys(wait.ticket.client for wait in order if wait.key == key))
        self._places[key] = Place(tenant=self._tenants[key], state=State.LOADING, since=now)
        self._returning.forget(key)
        if self._tenants[key].pinned:  # others may have no room beside it
            self._doubt()
        return Load(key, clients, tuple(self._evicted_for.pop(key, ())))

    def _unload(self, place: Place, why: str, client: str, now: float) -> Unload:
        place.state, place.since, place.idle_since = State.UNLOADING, now, None
        return Unload(place.tenant.key, why, client)

    def _bring_back(self, now: float) -> list[Effect]:
        """What went for an image or a study comes back once that is over and nobody wants room."""
        if not self._returning or any(not place.ready for place in self._places.values()):
            return []
        key, guest = self._returning.next(self._ledger, self._tenants)
        if guest:
            return [self._unload(self._places[guest], f"«{self._policy.title(key)}» comes back", "", now)]
        return [self._load(key, (), now)] if key else []

    def _too_late(self, wait: Wait, now: float) -> Trouble:
        way = self._policy.in_the_way(wait.key, now)
        busy = [
            place.tenant.title
            for key, place in self._places.items()
            if (way is None or key in way or key == wait.key) and (place.running or not place.ready)
        ]
        order = in_turn(self._waits.values(), self._rules, now)
        retry_s = max(1.0, min(60.0, self._rules.starvation_s))
        return troubles.too_late(
            self._policy.title(wait.key),
            now - wait.since,
            busy,
            waiting=len(order),
            ahead=order.index(wait),
            retry_s=retry_s,
        )
