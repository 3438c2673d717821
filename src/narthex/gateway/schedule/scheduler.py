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
from narthex.gateway.schedule import checking, troubles, views
from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.policy import Policy, Step
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
from narthex.gateway.schedule.wait import Wait, in_turn
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration


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

    # what is known

    def add(self, tenant: Tenant) -> None:
        """Make a tenant known, or change its figures."""
        self._tenants[tenant.key] = tenant
        if (place := self._places.get(tenant.key)) is not None:
            place.tenant = tenant

    def change(self, rules: Rules) -> None:
        """Another policy; what runs and waits stays. It counts from the next event on."""
        self._rules = self._policy.rules = rules
        self._quiet_until = -inf

    def is_ready(self, key: str) -> bool:
        """Whether it is loaded."""
        place = self._places.get(key)
        return place is not None and place.ready

    # tickets

    def submit(self, ticket: Ticket, now: float) -> list[Effect]:
        """A request comes. One for a warm model with a free place costs no look at the queue."""
        due = self._settle(now) if self._waits and now >= self._quiet_until else []
        place = self._places.get(ticket.choices[0])
        if place is not None and self._at_once(ticket, place):
            due.append(self._grant(ticket, place, now, ""))
            return due
        wait = Wait(ticket, self._arrivals + 1, now)
        choice = self._policy.choose(wait, self._failed, now)
        place = self._places.get(choice.key)
        if place is not None and self._at_once(ticket, place):
            due.append(self._grant(ticket, place, now, choice.instead))
            return due
        if choice.trouble is not None:
            return [*due, Refuse(ticket.id, choice.trouble)]
        if len(self._waits) >= self._rules.queue:
            return [*due, Refuse(ticket.id, troubles.queue_full(len(self._waits), self._rules.queue))]
        self._arrivals += 1
        wait.key, wait.instead = choice.key, choice.instead  # its time may be over before the next look
        self._waits[ticket.id] = wait
        return due + self._settle(now)

    def _at_once(self, ticket: Ticket, place: Place) -> bool:
        """Nobody is passed over: the tenant is open to all, and nobody waits for it."""
        return (
            place.state is State.READY
            and place.only_before is None
            and ticket.rank is not Rank.BACKGROUND
            and place.tenant.key not in self._wanted
            and place.has_slot()
        )

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
        if self.is_ready(key):
            self._places[key].leaving = True
        return self._settle(now)

    def _remember(self, key: str, trouble: Trouble, now: float) -> None:
        if trouble.lasting:
            self._failed[key] = (trouble, now + self._rules.remember_s)

    def _be_ready(self, key: str, held: int | None, now: float) -> None:
        place = Place(tenant=self._tenants[key], state=State.READY, since=now)
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
        now, rules = self._now, self._rules
        times = [until for _, until in self._failed.values()]
        for place in self._places.values():
            if (due := place.due_at()) is not None:
                times.append(due)
            if self._waits and place.ready:
                times += [place.ready_at + rules.residency_s, place.stays_until(rules.residency_s)]
        for wait in self._waits.values():
            times += [wait.ticket.not_before, wait.since + rules.starvation_s]
            if wait.ticket.until is not None:
                times.append(wait.ticket.until)
        return min((time for time in times if time > now), default=None)

    # views

    def forecast(self, choices: Sequence[str], rank: Rank, now: float) -> Forecast:
        """What would happen to a request now; nothing is changed."""
        wait = Wait(Ticket(id=0, choices=tuple(choices), rank=rank), self._arrivals + 1, now)
        choice = self._policy.choose(wait, self._failed, now)
        order = in_turn([*self._waits.values(), wait], self._rules, now)
        return views.forecast(choice, wait, order.index(wait), self._ledger, self._policy)

    def snapshot(self, now: float) -> Snapshot:
        """Everything at this moment."""
        return views.snapshot(self._ledger, self._waits.values(), self._failed, now)

    def check(self) -> None:
        """Raises AssertionError where the state contradicts itself; for tests."""
        checking.check(self._ledger, self._waits, self._granted)

    # after each event

    def _settle(self, now: float) -> list[Effect]:
        """Refuse what is due, choose, grant, let go, and begin what makes room."""
        self._now = now
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
        elif not order:
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
            choice = self._policy.choose(wait, self._failed, now)
            if choice.trouble is not None:
                effects.append(Refuse(ticket, choice.trouble))
                del self._waits[ticket]
            wait.key, wait.instead = choice.key, choice.instead
        return effects

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
            due = place.due_at()
            if place.leaving:
                effects.append(self._unload(place, "it was asked to go", "", now))
            elif due is not None and due <= now:
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
            effects.append(self._unload(place, f"room for {guest.key}", step.wait.ticket.client, now))
        return effects

    def _load(self, key: str, order: Sequence[Wait], now: float) -> Load:
        clients = tuple(dict.fromkeys(wait.ticket.client for wait in order if wait.key == key))
        self._places[key] = Place(tenant=self._tenants[key], state=State.LOADING, since=now)
        self._returning.forget(key)
        return Load(key, clients, tuple(self._evicted_for.pop(key, ())))

    def _unload(self, place: Place, why: str, client: str, now: float) -> Unload:
        place.state, place.since, place.idle_since = State.UNLOADING, now, None
        return Unload(place.tenant.key, why, client)

    def _bring_back(self, now: float) -> list[Effect]:
        """What went for an image or a study comes back once that is over and nobody waits."""
        if not self._returning or any(not place.ready for place in self._places.values()):
            return []
        key, guest = self._returning.next(self._ledger, self._tenants)
        if guest:
            return [self._unload(self._places[guest], f"{key} comes back", "", now)]
        return [self._load(key, (), now)] if key else []

    def _too_late(self, wait: Wait, now: float) -> Trouble:
        way = self._policy.in_the_way(wait.key, now)
        busy = [
            key
            for key, place in self._places.items()
            if (way is None or key in way or key == wait.key) and (place.running or not place.ready)
        ]
        order = in_turn(self._waits.values(), self._rules, now)
        retry_s = max(1.0, min(60.0, self._rules.starvation_s))
        return troubles.too_late(
            wait.key,
            now - wait.since,
            busy,
            waiting=len(order),
            ahead=order.index(wait),
            retry_s=retry_s,
        )
