"""What happens because time passes, and when the scheduler wants to be woken."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def test_an_idle_model_goes_after_its_keep_alive() -> None:
    card = Card()
    card.warm("chat", 8, keep_alive_s=300.0)
    card.end(card.ask("chat"))
    assert card.scheduler.wake_at() == 300.0
    card.later(299)
    assert not card.unloads
    card.later(1)
    assert card.unloads == ["chat"]


def test_a_request_begins_its_keep_alive_anew() -> None:
    card = Card()
    card.warm("chat", 8, keep_alive_s=300.0)
    card.later(299)
    ticket = card.ask("chat")
    card.later(300)
    assert not card.unloads
    card.end(ticket)
    card.later(299)
    assert not card.unloads
    card.later(1)
    assert card.unloads == ["chat"]


def test_a_negative_keep_alive_is_for_ever() -> None:
    card = Card()
    card.warm("chat", 8, keep_alive_s=-1.0)
    assert card.scheduler.wake_at() is None
    card.later(1e9)
    assert not card.unloads


def test_a_keep_alive_of_nothing_ends_with_the_answer() -> None:
    card = Card()
    ticket = card.ask(card.tenant("chat", 8, keep_alive_s=0.0))
    card.loaded("chat")
    assert card.granted(ticket)
    card.end(ticket)
    assert card.unloads == ["chat"]


def test_an_idle_model_is_not_let_go_under_a_call_that_is_held_back() -> None:
    card = Card()
    card.warm("chat", 8, keep_alive_s=1.0)
    title = card.ask("chat", rank=Rank.BACKGROUND, not_before=2.0)
    card.later(2)
    assert card.granted(title)
    assert not card.unloads


def test_whom_an_admin_lets_go_goes_when_its_answers_have_ended() -> None:
    card = Card()
    card.warm("chat", 8)
    first, second = card.ask("chat"), card.ask("chat")
    card.release("chat")
    card.end(first)
    assert not card.unloads
    card.end(second)
    assert card.unloads == ["chat"]


def test_whom_an_admin_lets_go_serves_those_who_wait_for_it_first() -> None:
    card = Card()
    card.warm("chat", 8, slots=1)
    first, second = card.ask("chat"), card.ask("chat")
    card.release("chat")
    card.end(first)
    assert card.granted(second)
    card.end(second)
    assert card.unloads == ["chat"]


def test_it_wakes_for_the_next_of_all_that_is_due() -> None:
    card = Card(24, starvation_s=60.0, residency_s=5.0)
    card.warm("chat", 20, keep_alive_s=1000.0)
    card.now = 6.0
    card.ask("chat")
    card.ask(card.tenant("code", 20), until=40.0)
    assert card.scheduler.wake_at() == 40.0
    card.later(34)
    card.ask("code", until=500.0)
    assert card.scheduler.wake_at() == 100.0
    card.later(60)
    assert card.scheduler.wake_at() == 500.0


def test_a_scheduler_that_was_woken_does_not_ask_for_the_same_moment_again() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    card.ask("chat")
    card.ask(card.tenant("code", 20), until=90.0)
    for _ in range(100):
        wake = card.scheduler.wake_at()
        if wake is None:
            break
        assert wake > card.now
        card.now = wake
        card.take(card.scheduler.tick(wake))
    assert card.scheduler.wake_at() is None
