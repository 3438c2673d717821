"""The log's requests through the scheduler again, on a clock that only the events move."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

import msgspec

from narthex.gateway.ask import Rank
from narthex.gateway.replay.course import Course, Tally
from narthex.gateway.replay.learning import Learnt
from narthex.gateway.routing.router import HOLD_S
from narthex.gateway.schedule.records import Effect, Grant, Load, Refuse, Rules, Ticket, Unload
from narthex.gateway.schedule.scheduler import Scheduler
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.record import RequestRecord
from narthex.policy.records import GatewayPolicy

TICK_S = 0.001  # at least so far a clock moves that is to wake up at once
LEFT = 499

_Event = tuple[float, int, Callable[[float], None]]


class Simulation:
    """One run. ``before``: the settings that the log was written under."""

    def __init__(self, learnt: Learnt, policy: GatewayPolicy, before: GatewayPolicy) -> None:
        self._learnt, self._policy = learnt, policy
        room = learnt.room
        if policy.vram is not None:
            room = msgspec.structs.replace(room, total=policy.vram)
        self._scheduler = Scheduler(Rules.of(policy), room)
        self._tenants = {row.key: row for row in learnt.tenants(policy, before)}
        self._tally = Tally()
        self._events: list[_Event] = []
        self._order = itertools.count()
        self._open: dict[int, RequestRecord] = {}  # tickets that wait
        self._ready: dict[str, None] = {}

    def run(self) -> Course:
        """From the first request to the last one's end."""
        rows = self._learnt.requests
        begin = rows[0].at if rows else 0.0
        for tenant in self._tenants.values():
            self._scheduler.add(tenant)
        for key in self._learnt.resident:
            self._ready[key] = None
            self._do(self._scheduler.appeared(key, self._tenants[key].need, begin), begin)
        for ticket, row in enumerate(rows, 1):
            self._at(row.at, lambda now, ticket=ticket, row=row: self._arrive(ticket, row, now))  # type: ignore[misc]
        now = begin
        while self._events or self._open:
            wake = self._scheduler.wake_at()
            due = self._events[0][0] if self._events else None
            if due is None and wake is None:
                break
            if due is None or (wake is not None and wake < due):
                assert wake is not None
                now = max(wake, now + TICK_S)
                self._do(self._scheduler.tick(now), now)
            else:
                now, _, happen = heapq.heappop(self._events)
                happen(now)
        for row in self._open.values():
            self._tally.refused(row.client, now - row.at)
        return self._tally.course()

    def _arrive(self, ticket: int, row: RequestRecord, now: float) -> None:
        background = bool(row.task) or row.rank == Rank.BACKGROUND
        rank, hold_s = Rank(row.rank), 0.0
        choices: Sequence[str] = row.choices or (row.key,)
        if background and self._policy.background == "as-asked":
            rank = Rank.INTERACTIVE
        elif background:
            rank, hold_s = Rank.BACKGROUND, HOLD_S if self._policy.background == "after" else 0.0
            if self._policy.background == "resident" and self._ready:
                choices = tuple(key for key in choices if key in self._ready) or tuple(self._ready)[:1]
        self._open[ticket] = row
        made = Ticket(
            id=ticket,
            choices=tuple(choices),
            rank=rank,
            client=row.client,
            until=row.at + self._policy.wait,
            not_before=now + hold_s if hold_s else 0.0,
        )
        self._do(self._scheduler.submit(made, now), now)
        if row.status == LEFT and not row.served:
            self._at(row.at + row.waited_s, lambda now: self._leave(ticket, now))

    def _leave(self, ticket: int, now: float) -> None:
        row = self._open.pop(ticket, None)
        if row is not None:
            self._tally.refused(row.client, now - row.at)
            self._do(self._scheduler.cancel(ticket, now), now)

    def _do(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Grant():
                    self._grant(effect, now)
                case Refuse(ticket=ticket):
                    if (row := self._open.pop(ticket, None)) is not None:
                        self._tally.refused(row.client, now - row.at)
                case Load():
                    self._load(effect, now)
                case Unload():
                    self._unload(effect, now)

    def _grant(self, effect: Grant, now: float) -> None:
        row = self._open.pop(effect.ticket)
        self._tally.answered(row.client, now - row.at, instead=bool(effect.instead))
        until = now + self._learnt.service_s(row, effect.key)
        self._at(until, lambda now: self._do(self._scheduler.finish(effect.ticket, now), now))

    def _load(self, effect: Load, now: float) -> None:
        key, seconds = effect.key, self._learnt.load_s(effect.key)

        def ended(now: float) -> None:
            cause = self._learnt.never.get(key)
            if cause is not None:
                trouble = Trouble(503, cause, "It never loaded in this log.", lasting=True)
                self._do(self._scheduler.failed(key, trouble, now), now)
                return
            self._ready[key] = None
            self._tally.loaded(
                effect.clients[0] if effect.clients else "", seconds, swap=bool(effect.evicted)
            )
            self._do(self._scheduler.loaded(key, self._tenants[key].need, now), now)

        self._at(now + seconds, ended)

    def _unload(self, effect: Unload, now: float) -> None:
        key, seconds = effect.key, self._learnt.unload_s(effect.key)
        self._ready.pop(key, None)

        def ended(now: float) -> None:
            self._tally.unloaded(effect.client, seconds)
            self._do(self._scheduler.unloaded(key, now), now)

        self._at(now + seconds, ended)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))
