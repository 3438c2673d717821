"""The starvation bound, with clients that never stop: in any mix of models, slots and times.

Every client asks again as soon as it is answered. One that has waited ``starvation_s`` is only behind those
that came before it; each of their turns is at most a residency, the answers that run, an unload and a load.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Effect, Grant, Load, Room, Rules, Tenant, Ticket, Unload
from narthex.gateway.schedule.scheduler import Scheduler

TOTAL = 24
RUN_S = 300.0


class World(NamedTuple):
    """Times in seconds; ``slots`` None: no limit."""

    needs: tuple[int, ...]
    slots: int | None
    clients: int
    answer_s: float
    load_s: float
    unload_s: float
    starvation_s: float
    residency_s: float
    seed: int

    @property
    def turn_s(self) -> float:
        return self.residency_s + self.answer_s + self.unload_s + self.load_s

    @property
    def bound_s(self) -> float:
        """Without a limit of slots a load serves all who wait for it, so each model comes once."""
        turns = len(self.needs) if self.slots is None else self.clients
        return self.starvation_s + (turns + 1) * self.turn_s


class Traffic:
    """Clients, engines and a card, on a clock that only events move."""

    def __init__(self, world: World) -> None:
        self.world, self.now = world, 0.0
        self.random = random.Random(world.seed)
        rules = Rules(starvation_s=world.starvation_s, residency_s=world.residency_s)
        self.scheduler = Scheduler(rules, Room(total=TOTAL))
        self.keys = tuple(f"m{number}" for number in range(len(world.needs)))
        for key, need in zip(self.keys, world.needs, strict=True):
            self.scheduler.add(Tenant(key=key, need=need, slots=world.slots, keep_alive_s=-1.0))
        self.since: dict[int, tuple[float, str]] = {}
        self.clients: dict[int, int] = {}
        self.ready_at: dict[str, float] = {}
        self.longest = 0.0
        self.answers = 0
        self._tickets = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], Sequence[Effect]]]] = []
        self._order = itertools.count()

    def run(self) -> None:
        for client in range(self.world.clients):
            self.at(self.random.random(), lambda client=client: self.ask(client))  # type: ignore[misc]
        while self.now < RUN_S:
            wake, due = self.scheduler.wake_at(), self._events[0][0] if self._events else None
            assert wake is not None or due is not None, "everything stands still"
            if due is None or (wake is not None and wake < due):
                assert wake is not None
                self.now = max(self.now, wake)
                self.take(self.scheduler.tick(self.now))
            else:
                self.now, _, happen = heapq.heappop(self._events)
                self.take(happen())
        waited = [self.now - since for since, _ in self.since.values()]
        self.longest = max([self.longest, *waited])

    def at(self, when: float, happen: Callable[[], Sequence[Effect]]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def ask(self, client: int) -> Sequence[Effect]:
        """Most clients ask for one model over and over, so that it is never idle by itself."""
        favourite = self.keys[client % len(self.keys)] if self.random.random() < 0.8 else None
        key = favourite or self.random.choice(self.keys)
        ticket = next(self._tickets)
        self.since[ticket] = (self.now, key)
        rank = self.random.choice([Rank.INTERACTIVE, Rank.INTERACTIVE, Rank.EMBEDDING, Rank.BACKGROUND])
        self.clients[ticket] = client
        return self.scheduler.submit(Ticket(id=ticket, choices=(key,), rank=rank), self.now)

    def take(self, effects: Sequence[Effect], *, fresh: str = "") -> None:
        self.scheduler.check()
        for effect in effects:
            match effect:
                case Grant(ticket=ticket, key=key):
                    since, _ = self.since.pop(ticket)
                    self.longest = max(self.longest, self.now - since)
                    self.answers += 1
                    if key != fresh:
                        self.nobody_is_overtaken(ticket, key)
                    long = self.world.answer_s * self.random.uniform(0.3, 1.0)
                    self.at(self.now + long, lambda ticket=ticket: self.end(ticket))  # type: ignore[misc]
                case Load(key=key):
                    self.at(self.now + self.world.load_s, lambda key=key: self.loaded(key))  # type: ignore[misc]
                case Unload(key=key):
                    self.at(self.now + self.world.unload_s, lambda key=key: self.unloaded(key))  # type: ignore[misc]

    def end(self, ticket: int) -> Sequence[Effect]:
        client = self.clients.pop(ticket)
        self.at(self.now, lambda: self.ask(client))
        return self.scheduler.finish(ticket, self.now)

    def loaded(self, key: str) -> Sequence[Effect]:
        self.ready_at[key] = self.now
        self.take(self.scheduler.loaded(key, None, self.now), fresh=key)
        return ()

    def unloaded(self, key: str) -> Sequence[Effect]:
        del self.ready_at[key]
        return self.scheduler.unloaded(key, self.now)

    def nobody_is_overtaken(self, ticket: int, key: str) -> None:
        """Where no two models fit together, each one is in the way of all others."""
        if min(self.world.needs) * 2 <= TOTAL or self.now < self.ready_at[key] + self.world.residency_s:
            return
        for older, (since, wanted) in self.since.items():
            late = self.now >= since + self.world.starvation_s
            assert not (late and older < ticket and wanted != key), "one that waited too long was overtaken"


worlds = st.builds(
    World,
    needs=st.lists(st.integers(4, TOTAL), min_size=2, max_size=5).map(tuple),
    slots=st.none() | st.integers(1, 3),
    clients=st.integers(2, 14),
    answer_s=st.sampled_from((0.5, 3.0, 8.0)),
    load_s=st.sampled_from((0.1, 2.0, 6.0)),
    unload_s=st.sampled_from((0.01, 1.0)),
    starvation_s=st.sampled_from((2.0, 10.0, 30.0)),
    residency_s=st.sampled_from((0.0, 1.0, 5.0)),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=60, deadline=None)
@given(world=worlds)
def test_nobody_waits_longer_than_the_bound_in_unending_traffic(world: World) -> None:
    traffic = Traffic(world)
    traffic.run()
    assert traffic.answers
    assert traffic.longest <= world.bound_s + 1e-6


@settings(max_examples=40, deadline=None)
@given(world=worlds.filter(lambda world: world.clients >= len(world.needs)))
def test_no_one_goes_past_one_who_has_waited_too_long_where_models_exclude_each_other(world: World) -> None:
    exclusive = world._replace(needs=tuple(max(need, TOTAL // 2 + 1) for need in world.needs))
    traffic = Traffic(exclusive)
    traffic.run()
    assert traffic.answers
