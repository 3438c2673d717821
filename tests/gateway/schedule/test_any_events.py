"""Whatever happens, in whatever order: no ticket is lost, nothing is given twice, and all comes to an end."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Effect, Grant, Load, Refuse, Room, Rules, Tenant, Ticket, Unload
from narthex.gateway.schedule.scheduler import Scheduler
from narthex.gateway.trouble import Trouble

TOTAL, RESERVE = 24, 1
TENANTS = {
    row.key: row
    for row in (
        Tenant(key="small", need=6, slots=2),
        Tenant(key="middle", need=10, keep_alive_s=20.0),
        Tenant(key="large", need=18, slots=1),
        Tenant(key="short", need=7, twin="blob"),
        Tenant(key="long", need=9, twin="blob", keep_alive_s=-1.0),
        Tenant(key="huge", need=60),
        Tenant(key="stretched", need=60, elastic=True, keep_alive_s=0.0),
        Tenant(key="riddle", need=None),
        Tenant(key="pinned", need=3, pinned=True, keep_alive_s=-1.0),
        Tenant(key="study", exclusive=True, slots=1, keep_alive_s=0.0, comes_back=False),
    )
}
KEYS = st.sampled_from(tuple(TENANTS))
PLAIN = st.sampled_from([key for key in TENANTS if key not in ("pinned", "study")])
SECONDS = st.sampled_from((0.0, 0.3, 1.0, 4.0, 15.0, 60.0))
RULES = Rules(starvation_s=20.0, residency_s=3.0, queue=12, remember_s=30.0)


class Events(RuleBasedStateMachine):
    """It keeps books of its own, from the effects alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.room = Room(total=TOTAL, reserve=RESERVE)
        self.scheduler = Scheduler(RULES, self.room)
        for tenant in TENANTS.values():
            self.scheduler.add(tenant)
        self.waiting: dict[int, Ticket] = {}
        self.running: dict[int, str] = {}
        self.broken: set[int] = set()  # their engine vanished under them
        self.ready: dict[str, int] = {}  # what is there, and the bytes that it is known to hold
        self.loading: set[str] = set()
        self.unloading: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.last = 0

    # the books

    def need(self, key: str) -> int:
        most = TOTAL - RESERVE - self.room.others
        need = self.seen.get(key, TENANTS[key].need)
        if need is None:
            return most
        return min(need, most) if TENANTS[key].elastic else need

    def take(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant():
                    self.grant(effect)
                case Refuse(ticket=ticket, trouble=trouble):
                    del self.waiting[ticket]
                    assert trouble.message
                    assert trouble.status >= 400
                case Load(key=key):
                    self.load(key)
                case Unload(key=key):
                    assert key not in self.running.values(), "unloaded while it runs"
                    self.unloading[key] = self.ready.pop(key)
        self.scheduler.check()
        self.nobody_overtakes(effects)

    def grant(self, effect: Grant) -> None:
        ticket = self.waiting.pop(effect.ticket)
        assert effect.key in ticket.choices
        assert bool(effect.instead) == (effect.key != ticket.choices[0])
        assert effect.key in self.ready, "granted where nothing is loaded"
        assert ticket.not_before <= self.now
        self.running[effect.ticket] = effect.key
        slots = TENANTS[effect.key].slots
        assert slots is None or list(self.running.values()).count(effect.key) <= slots

    def load(self, key: str) -> None:
        assert not self.loading, "two loads at a time"
        assert key not in self.ready
        assert key not in self.unloading
        there = [*self.ready, *self.unloading]
        tenant = TENANTS[key]
        assert not (tenant.exclusive and there)
        assert not any(TENANTS[one].exclusive for one in there)
        assert not any(tenant.twin and TENANTS[one].twin == tenant.twin for one in there)
        if not tenant.exclusive:
            held = sum(self.ready.values()) + sum(self.unloading.values())
            assert held + self.need(key) + RESERVE + self.room.others <= TOTAL, "more than there is"
        self.loading.add(key)

    def nobody_overtakes(self, effects: Sequence[Effect]) -> None:
        """No load begins past one that came earlier and has waited too long for what is not there."""
        loads = [effect.key for effect in effects if isinstance(effect, Load)]
        if not loads:
            return
        rows = self.scheduler.snapshot(self.now).waiting
        there = self.ready.keys() | self.loading
        late = [row for row in rows if self.now >= row.since + RULES.starvation_s]
        absent = min((row.ticket for row in late if row.wants not in there), default=None)
        own = min((row.ticket for row in late if row.wants == loads[0]), default=None)
        assert absent is None or (own is not None and own < absent)

    # what happens

    @rule(
        choices=st.lists(PLAIN, min_size=1, max_size=3, unique=True),
        rank=st.sampled_from(list(Rank)),
        patience=st.none() | st.sampled_from((5.0, 40.0, 200.0)),
        hold=st.sampled_from((0.0, 2.0)),
    )
    def submit(self, choices: list[str], rank: Rank, patience: float | None, hold: float) -> None:
        self.ask(choices, rank, patience, hold if rank is Rank.BACKGROUND else 0.0)

    @rule(key=st.sampled_from(("study", "pinned")))
    def submit_a_guest(self, key: str) -> None:
        self.ask([key], Rank.INTERACTIVE, None, 0.0)

    def ask(self, choices: Sequence[str], rank: Rank, patience: float | None, hold: float) -> None:
        self.last += 1
        ticket = Ticket(
            id=self.last,
            choices=tuple(choices),
            rank=rank,
            until=None if patience is None else self.now + patience,
            not_before=self.now + hold if hold else 0.0,
        )
        self.waiting[self.last] = ticket
        self.take(self.scheduler.submit(ticket, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[ticket]
        self.take(self.scheduler.finish(ticket, self.now))

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running | self.waiting)))
        self.waiting.pop(ticket, None)
        self.running.pop(ticket, None)
        self.take(self.scheduler.cancel(ticket, self.now))

    @precondition(lambda self: self.loading)
    @rule(held=st.booleans())
    def loaded(self, held: bool) -> None:
        key = self.loading.pop()
        self.ready[key] = self.need(key)
        if held:
            self.seen[key] = self.ready[key]
        self.take(self.scheduler.loaded(key, self.ready[key] if held else None, self.now))

    @precondition(lambda self: self.loading)
    @rule(lasting=st.booleans())
    def fails(self, lasting: bool) -> None:
        trouble = Trouble(500, "vram_oom_on_load", "It ran out of memory.", lasting=lasting)
        self.take(self.scheduler.failed(self.loading.pop(), trouble, self.now))

    @precondition(lambda self: self.unloading)
    @rule(data=st.data())
    def unloaded(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.unloading)))
        del self.unloading[key]
        self.take(self.scheduler.unloaded(key, self.now))

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), told=st.booleans())
    def vanishes(self, data: st.DataObject, told: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.ready)))
        del self.ready[key]
        self.broken |= {ticket for ticket, where in self.running.items() if where == key}
        self.running = {ticket: where for ticket, where in self.running.items() if where != key}
        trouble = Trouble(500, "runner_crash", "It is gone.", lasting=True) if told else None
        self.take(self.scheduler.vanished(key, trouble, self.now))

    @precondition(lambda self: self.broken)
    @rule()
    def one_hears_that_its_engine_is_gone(self) -> None:
        self.take(self.scheduler.finish(self.broken.pop(), self.now))

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), others=st.sampled_from((0, 0, 2, 10)))
    def observe(self, data: st.DataObject, others: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.ready)))
        held = data.draw(st.integers(1, 12))
        self.ready[key] = self.seen[key] = held
        self.room = Room(total=TOTAL, reserve=RESERVE, others=others)
        self.take(self.scheduler.observe(self.room, {key: held}, self.now))

    @rule(key=KEYS)
    def let_go(self, key: str) -> None:
        self.take(self.scheduler.release(key, "an admin asked", self.now))

    @rule(seconds=SECONDS)
    def later(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(200):
            wake = self.scheduler.wake_at()
            if wake is None or wake > end:
                break
            self.now = max(self.now, wake)
            self.take(self.scheduler.tick(self.now))
        else:
            raise AssertionError("it wants to be woken without end")
        self.now = end
        self.take(self.scheduler.tick(end))

    @rule(choices=st.lists(KEYS, min_size=1, max_size=2, unique=True), rank=st.sampled_from(list(Rank)))
    def forecast(self, choices: list[str], rank: Rank) -> None:
        before = self.scheduler.snapshot(self.now)
        self.scheduler.forecast(choices, rank, self.now)
        assert self.scheduler.snapshot(self.now) == before

    # what is always so

    @invariant()
    def the_books_agree(self) -> None:
        shot = self.scheduler.snapshot(self.now)
        assert {row.ticket for row in shot.waiting} == set(self.waiting)
        states = {row.key: row.state for row in shot.holdings}
        assert {key for key, state in states.items() if state == "ready"} == set(self.ready)
        assert {key for key, state in states.items() if state == "loading"} == self.loading
        assert {key for key, state in states.items() if state == "unloading"} == set(self.unloading)
        for row in shot.holdings:
            assert row.running == list(self.running.values()).count(row.key)

    def teardown(self) -> None:
        """Everybody ends what they do, and nobody asks any more: all are answered, and nothing is left."""
        self.room = Room(total=TOTAL, reserve=RESERVE)
        self.take(self.scheduler.observe(self.room, {}, self.now))
        for _ in range(300):
            self.end_what_goes_on()
            if not self.waiting and not self.loading and not self.unloading:
                break
            self.later(1.0)
        assert not self.waiting, "a ticket is lost"
        for _ in range(50):
            self.end_what_goes_on()
            for key in list(self.ready):
                self.take(self.scheduler.release(key, "the end", self.now))
            self.later(100.0)
        shot = self.scheduler.snapshot(self.now)
        assert not shot.holdings
        assert not shot.waiting
        assert self.scheduler.wake_at() is None

    def end_what_goes_on(self) -> None:
        while self.broken:
            self.one_hears_that_its_engine_is_gone()
        for ticket in list(self.running):
            del self.running[ticket]
            self.take(self.scheduler.finish(ticket, self.now))
        for key in list(self.unloading):
            del self.unloading[key]
            self.take(self.scheduler.unloaded(key, self.now))
        for key in list(self.loading):
            self.loading.remove(key)
            self.ready[key] = self.need(key)
            self.take(self.scheduler.loaded(key, None, self.now))


TestAnyEvents = Events.TestCase
TestAnyEvents.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
