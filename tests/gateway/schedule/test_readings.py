"""What the card says about itself is believed, and not more than it says."""

from __future__ import annotations

from narthex.gateway.schedule.records import Rules, Tenant

from .card import GB, Card


def test_a_model_that_was_there_is_not_refused_for_what_it_held() -> None:
    card = Card(24)
    card.warm("chat", 23)
    card.observe(chat=25)
    card.vanished("chat")
    ticket = card.ask("chat")
    assert card.refusal(ticket) is None
    assert card.loads == ["chat"]


def test_what_had_to_do_with_less_is_not_counted_as_small() -> None:
    card = Card(24, others=10)
    card.tenant("wide", 30, elastic=True)
    card.ask("wide")
    card.loaded("wide", 14)
    card.vanished("wide")
    card.observe()
    card.warm("chat", 8)
    card.ask("wide")
    assert card.unloads == ["chat"]


def test_a_model_without_a_need_disturbs_nobody_on_a_full_card() -> None:
    card = Card(24)
    card.warm("chat", 20)
    card.observe(others=10, chat=20)
    ticket = card.ask(card.tenant("on the cpu", 0))
    card.settle()
    assert card.granted(ticket)
    assert not card.unloads


def test_others_that_grow_refuse_nothing_that_is_loaded() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    card.ask("chat")
    waiting = card.ask("chat")
    for _ in range(10):
        card.observe(others=20, chat=20)
        card.later(1)
    assert card.waits(waiting)


def test_a_high_reading_sends_nobody_away_who_waits() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    card.ask("chat")
    first = card.ask(card.tenant("code", 20), card.tenant("little", 3))
    second = card.ask("code")
    card.observe(others=20, chat=20)
    card.later(1)
    card.observe(chat=20)
    card.later(10)
    assert card.waits(first)
    assert card.waits(second)
    assert not card.loads


def test_a_card_that_stays_full_is_a_reason() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.observe(others=20, chat=20)
    assert card.scheduler.wake_at() == 3.0
    card.later(3)
    refusal = card.refusal(waiting)
    assert refusal is not None
    assert refusal.cause == "vram_held_by_others"


def test_a_shorter_bound_counts_at_once_for_those_who_wait() -> None:
    card = Card(24)
    card.warm("chat", 20)
    card.ask("chat")
    card.ask(card.tenant("code", 20))
    card.later(30)
    card.scheduler.change(Rules(starvation_s=10.0, residency_s=0.0))
    card.later(0)
    assert card.waits(card.ask("chat"))


def test_a_shorter_keep_alive_counts_at_once() -> None:
    card = Card(24)
    card.warm("chat", 20, keep_alive_s=100.0)
    card.later(50)
    card.scheduler.add(Tenant(key="chat", need=20 * GB, keep_alive_s=10.0))
    card.later(0)
    assert card.unloads == ["chat"]
