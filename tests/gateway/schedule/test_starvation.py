"""Nobody waits for ever, whatever others ask for."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def busy_chat(card: Card, **figures: int) -> tuple[str, list[int]]:
    card.warm("chat", 20, **figures)
    return "chat", [card.ask("chat")]


def overlapping(card: Card, key: str, seconds: int) -> int:
    """A request each second, each of which ends a second after the next began; the last one's number."""
    last = card.ask(key)
    for _ in range(seconds):
        card.later(1)
        following = card.ask(key)
        card.end(last)
        card.settle()
        last = following
    return last


def test_unending_traffic_is_drained_for_one_who_waited_long_enough() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 20)
    waiting = card.ask(card.tenant("code", 20)) if card.granted(card.ask("chat")) else 0
    card.end(1)
    card.settle()
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
    for key in "ab":
        card.warm(key, 10)
        running[key] = [card.ask(key), card.ask(key)]
    waiting = card.ask(card.tenant("c", 10))
    card.later(60)
    for _ in range(50):
        for key in "ab":
            card.end(running[key].pop(0))
            running[key].append(card.ask(key))
            card.later(1)
        card.settle()
        if card.granted(waiting):
            break
        for tickets in running.values():
            tickets[:] = [one for one in tickets if card.granted(one)] or [card.ask("none")]
        if not all(card.granted(one) for tickets in running.values() for one in tickets):
            break
    for tickets in running.values():
        for one in tickets:
            card.end(one)
    card.settle()
    assert card.granted(waiting)


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


def test_models_in_turns_are_each_reached() -> None:
    card = Card(24, starvation_s=10.0)
    for key in "abcd":
        card.tenant(key, 20)
    open_: list[int] = []
    wants: dict[int, tuple[str, float]] = {}
    longest = 0.0
    for second in range(400):
        for key in "abcd":
            ticket = card.ask(key)
            open_.append(ticket)
            wants[ticket] = (key, card.now)
        card.settle()
        for ticket in [one for one in open_ if card.granted(one)]:
            if card.granted(ticket) and wants[ticket][1] < card.now:
                open_.remove(ticket)
                card.end(ticket)
                longest = max(longest, card.now - wants[ticket][1])
        card.settle()
        card.later(1)
        if second > 200 and not open_:
            break
    assert longest <= 10.0 + 4 * 3
    oldest = min((wants[one][1] for one in open_), default=card.now)
    assert card.now - oldest <= 10.0 + 4 * 3


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
