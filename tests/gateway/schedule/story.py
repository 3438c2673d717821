"""Any events on a card; before each request a forecast is held against what comes of it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Effect, Forecast, Grant, Load, Refuse, Rules, Unload

from .card import Card

KEYS = ("a", "b", "c", "image", "study", "pinned", "huge", "unknown")
KINDS = ("ask", "ask", "ask", "end", "loaded", "failed", "unloaded", "vanished", "let go", "others", "rules")
Step = tuple[str, int, float]

steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 2**16),
        st.sampled_from((0.0, 0.5, 3.0, 15.0)),
    ),
    max_size=40,
)


class Story:
    """``dense``: it is woken twice a second, too, and not only when it wants to be."""

    def __init__(self, *, dense: bool = False) -> None:
        self.dense = dense
        self.log: list[tuple[float, str, int | str]] = []
        self.card = card = Card(24, starvation_s=10.0, residency_s=1.0, queue=5, remember_s=20.0)
        card.tenant("a", 10, slots=1, keep_alive_s=60.0)
        card.tenant("b", 12, slots=2, keep_alive_s=0.5)
        card.tenant("c", 20, keep_alive_s=5.0)
        card.tenant("image", 18, elastic=True, comes_back=False, keep_alive_s=20.0)
        card.tenant("study", None, exclusive=True, slots=1, keep_alive_s=0.0)
        card.tenant("pinned", 6, pinned=True, keep_alive_s=-1.0)
        card.tenant("huge", 60)
        self.open: list[int] = []

    def later(self, seconds: float) -> None:
        card, end = self.card, self.card.now + seconds
        while True:
            wake = card.scheduler.wake_at()
            due = end + 1 if wake is None else max(card.now, wake)
            if self.dense:
                due = min(due, card.now + 0.5)
            if due > end:
                break
            card.now = due
            self.note(card.take(card.scheduler.tick(due)))
        card.now = end

    def note(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket=ticket) | Refuse(ticket=ticket):
                    self.log.append((self.card.now, type(effect).__name__, ticket))
                case Load(key=key) | Unload(key=key):
                    self.log.append((self.card.now, type(effect).__name__, key))

    def happen(self, step: Step) -> None:
        kind, number, seconds = step
        card = self.card
        self.later(seconds)
        before = len(card.effects)
        self.act(kind, number)
        self.note(card.effects[before:])

    def act(self, kind: str, number: int) -> None:
        card = self.card
        rows = card.scheduler.snapshot(card.now).holdings
        fitting = {"loaded": "loading", "failed": "loading", "unloaded": "unloading", "vanished": "ready"}
        if kind == "ask":
            self.ask(number)
        elif kind == "end" and self.open:
            card.end(self.open.pop(number % len(self.open)))
        elif kind == "rules":
            starvation_s = (3.0, 10.0, 30.0)[number % 3]
            card.scheduler.change(Rules(starvation_s=starvation_s, residency_s=1.0, queue=5, remember_s=20.0))
        elif kind == "others":
            card.observe(others=(0, 0, 8)[number % 3])
        elif kind == "let go" and rows:
            card.release(rows[number % len(rows)].key)
        elif keys := [row.key for row in rows if row.state == fitting.get(kind)]:
            key = keys[number % len(keys)]
            if kind == "failed":
                card.failed(key, lasting=bool(number % 2))
            else:
                getattr(card, kind)(key)

    def ask(self, number: int) -> None:
        card, rank = self.card, Rank((0, 0, 1, 2, 3)[number % 5])
        first, second = KEYS[number // 5 % len(KEYS)], KEYS[number // 64 % len(KEYS)]
        choices = (first,) if first == second or number % 3 else (first, second)
        card.take(card.scheduler.tick(card.now))
        told = card.scheduler.forecast(choices, rank, card.now)
        before = len(card.effects)
        ticket = card.ask(*choices, rank=rank)
        self.compare(told, ticket, before)
        if card.granted(ticket) or card.waits(ticket):
            self.open.append(ticket)

    def compare(self, told: Forecast, ticket: int, before: int) -> None:
        card = self.card
        refusal, granted = card.refusal(ticket), card.granted(ticket)
        assert (told.key is None) == (refusal is not None)
        if refusal is not None:
            assert told.trouble == refusal.text
            return
        assert granted == (told.key if told.ready and not told.waits_for else "")
        if granted:
            assert told.why == card.instead(ticket)
            return
        rows = {row.ticket: row.wants for row in card.scheduler.snapshot(card.now).waiting}
        assert rows[ticket] == told.key
        effects = card.effects[before:]
        for effect in effects:
            if isinstance(effect, Load) and effect.key == told.key:
                assert not told.evicts
                assert not told.waits_for
            if isinstance(effect, Unload) and told.key in effect.why:
                assert effect.key in told.evicts
        if not told.ready and not told.waits_for and told.position == 0 and self.quiet(before):
            begun = [effect.key for effect in effects if isinstance(effect, Unload)]
            assert begun == list(told.evicts)
            assert begun or any(isinstance(effect, Load) for effect in effects)

    def quiet(self, before: int) -> bool:
        """Nothing was on its way already."""
        begun = {effect.key for effect in self.card.effects[before:] if isinstance(effect, Load | Unload)}
        rows = self.card.scheduler.snapshot(self.card.now).holdings
        return all(row.state == "ready" or row.key in begun for row in rows)
