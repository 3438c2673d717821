"""Nobody waits for ever, whatever others ask for."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def overlapping(card: Card, key: str, seconds: int, last: int) -> int:
    """A request each second, and the one before ends only then: it is never idle. The last one's number."""
    for _ in range(seconds):
        card.later(1)
        following = card.ask(key)
        card.end(last)
        card.settle()
        last = following
    return last


def test_without_a_bound_overlapping_requests_would_keep_a_model_for_ever() -> None:
    card = Card(24, starvation_s=1e9)
    card.warm("chat", 20)
    running = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    last = overlapping(card, "chat", 1000, running)
    assert card.granted(last) == "chat"
    assert card.waits(waiting)


def test_unending_traffic_is_drained_for_one_who_waited_long_enough() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    running = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    last = overlapping(card, "chat", 59, running)
    assert card.granted(last)
    assert card.waits(waiting)
    overlapping(card, "chat", 2, last)
    assert card.granted(waiting)


def test_busy_models_take_nothing_new_from_the_moment_on() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    running = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.later(59)
    before = card.ask("chat")
    assert card.granted(before)
    card.later(1)
    after = card.ask("chat")
    assert card.waits(after)
    card.end(running)
    card.end(before)
    assert card.unloads == ["chat"]
    card.settle()
    assert card.granted(waiting)


def test_the_moment_counts_and_not_when_somebody_looked() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    card.ask("chat")
    card.ask(card.tenant("code", 20))
    card.now = 60.0  # nobody has told the scheduler the time yet
    assert card.waits(card.ask("chat"))


def test_rank_does_not_help_against_one_who_waited_too_long() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    running = card.ask("chat")
    low = card.ask(card.tenant("low", 20), rank=Rank.BACKGROUND)
    card.later(60)
    card.ask(card.tenant("high", 20))
    card.end(running)
    card.settle()
    assert card.loads == ["low"]
    assert card.granted(low)


def test_when_the_one_who_waited_leaves_the_drained_model_serves_again() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.later(60)
    held_up = card.ask("chat")
    assert card.waits(held_up)
    card.cancel(waiting)
    assert card.granted(held_up)
    assert card.granted(card.ask("chat"))


def test_a_drain_does_not_wander_from_one_busy_model_to_another() -> None:
    card = Card(20, starvation_s=60.0)
    running = {}
    for key in ("a", "b"):
        card.warm(key, 10)
        running[key] = [card.ask(key), card.ask(key)]
        card.later(1)
    card.ask(card.tenant("c", 10))
    card.later(60)
    drained = next(key for key in ("a", "b") if card.waits(card.ask(key)))
    served = "b" if drained == "a" else "a"
    card.end(running[drained].pop())  # it was used last now, and the other one longer ago
    card.later(1)
    assert card.waits(card.ask(drained))
    assert card.granted(card.ask(served))
    card.end(running[drained].pop())
    assert card.unloads == [drained]


def test_those_who_came_before_are_served_before_a_model_is_drained_for_another() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20, slots=1)
    running = card.ask("chat")
    older = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    newer = card.ask("chat")
    card.later(60)
    card.end(running)
    assert card.granted(older)
    card.end(older)
    assert card.waits(newer)
    card.settle()
    assert card.granted(waiting)


def test_a_drain_holds_while_another_model_loads() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 10)
    running = card.ask("chat")
    card.ask(card.tenant("slow", 10))
    assert card.state("slow") == "loading"
    card.ask(card.tenant("code", 16))
    card.later(60)
    assert card.waits(card.ask("chat"))
    card.end(running)


def test_a_model_loaded_while_another_waited_too_long_serves_those_who_waited_and_no_more() -> None:
    card = Card(24, starvation_s=10.0, residency_s=0.0)
    first = card.ask(card.tenant("slow", 20))
    card.later(1)
    waiting = card.ask(card.tenant("code", 20))
    second = card.ask("slow")
    card.later(10)
    card.loaded("slow")
    assert card.granted(first)
    assert card.granted(second)
    assert card.waits(card.ask("slow"))
    card.end(first)
    card.end(second)
    card.settle()
    assert card.granted(waiting)


def test_a_model_that_was_loaded_for_one_who_waited_stays_for_its_residency() -> None:
    card = Card(24, starvation_s=10.0, residency_s=5.0)
    card.warm("chat", 20)
    running = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.later(10)
    late = card.ask("chat")
    card.end(running)
    card.settle()
    assert card.granted(waiting)
    card.later(4.9)
    more = card.ask("code")
    assert card.granted(more)
    card.later(10)
    assert card.waits(card.ask("code"))  # «late» has waited long enough by now
    card.end(waiting)
    card.end(more)
    card.settle()
    assert card.granted(late)


def test_a_model_that_works_is_not_drained_before_its_residency_is_over() -> None:
    card = Card(24, starvation_s=10.0, residency_s=30.0)
    first = card.ask(card.tenant("chat", 20))
    card.settle()
    waiting = card.ask(card.tenant("code", 20))
    card.later(29)
    second = card.ask("chat")
    assert card.granted(second)
    card.later(1)
    assert card.waits(card.ask("chat"))
    card.end(first)
    card.end(second)
    card.settle()
    assert card.granted(waiting)
