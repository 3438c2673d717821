"""Loads belong to nobody; their failures are heard by all."""

from __future__ import annotations

from .card import Card


def test_all_who_wait_for_one_model_are_served_by_one_load() -> None:
    card = Card(24)
    card.tenant("chat", 20)
    tickets = [card.ask("chat") for _ in range(50)]
    card.settle()
    assert card.loads == ["chat"]
    assert all(card.granted(ticket) for ticket in tickets)


def test_a_b_c_a_b_c_costs_three_loads() -> None:
    card = Card(24)
    for key in "abc":
        card.tenant(key, 20)
    open_ = [card.ask(key) for key in "abcabc"]
    for _ in range(10):
        card.settle()
        for ticket in [one for one in open_ if card.granted(one)]:
            open_.remove(ticket)
            card.end(ticket)
        card.later(2)
    assert not open_
    assert sorted(card.loads) == ["a", "b", "c"]


def test_warm_models_are_served_past_a_load() -> None:
    card = Card(24)
    card.warm("embed", 4, slots=1)
    card.ask(card.tenant("chat", 16))
    assert card.state("chat") == "loading"
    ticket = card.ask("embed")
    assert card.granted(ticket)
    following = card.ask("embed")
    card.end(ticket)
    assert card.granted(following)


def test_a_load_under_way_goes_on_without_those_who_waited_and_is_joined() -> None:
    card = Card(24)
    card.tenant("chat", 20)
    gone = card.ask("chat")
    card.cancel(gone)
    assert card.state("chat") == "loading"
    late = card.ask("chat")
    card.settle()
    assert card.loads == ["chat"]
    assert card.granted(late)
    assert not card.granted(gone)


def test_a_load_not_begun_is_not_begun_for_nobody() -> None:
    card = Card(24)
    card.warm("old", 20)
    gone = card.ask(card.tenant("chat", 20))
    card.cancel(gone)
    card.unloaded("old")
    assert not card.loads
    assert card.scheduler.wake_at() is None


def test_a_later_load_does_not_name_what_went_for_a_load_that_never_began() -> None:
    card = Card(24)
    card.warm("old", 20)
    card.cancel(card.ask(card.tenant("chat", 20)))
    card.unloaded("old")
    card.ask("chat")
    load = card.effects[-1]
    assert getattr(load, "evicted", None) == ()


def test_after_a_failed_load_those_who_waited_go_to_their_next_choice() -> None:
    card = Card(24)
    card.tenant("large", 20)
    card.tenant("small", 8)
    ticket = card.ask("large", "small")
    card.settle(fail="large")
    assert card.loads == ["large", "small"]
    assert card.granted(ticket) == "small"
    assert "ran out of memory" in card.instead(ticket)


def test_without_another_choice_they_hear_why() -> None:
    card = Card(24)
    card.tenant("large", 20)
    tickets = [card.ask("large") for _ in range(3)]
    card.settle(fail="large")
    for ticket in tickets:
        trouble = card.refusal(ticket)
        assert trouble is not None
        assert trouble.cause == "vram_oom_on_load"


def test_a_choice_that_failed_and_then_came_by_itself_is_taken() -> None:
    card = Card(24)
    card.tenant("large", 12)
    card.warm("busy", 12, slots=1)
    card.ask("busy")
    ticket = card.ask("large", "busy")
    card.failed("large")
    assert card.waits(ticket)
    card.warm("large")
    assert card.granted(ticket) == "large"
    assert card.instead(ticket) == ""


def test_where_all_choices_fail_each_is_tried_once() -> None:
    card = Card(24)
    card.tenant("a", 20)
    card.tenant("b", 8)
    ticket = card.ask("a", "b")
    card.failed("a")
    card.failed("b")
    assert card.loads == ["a", "b"]
    assert card.refusal(ticket) is not None


def test_a_lasting_failure_is_heard_at_once_by_the_next_for_a_while() -> None:
    card = Card(24, remember_s=60.0)
    card.tenant("large", 20)
    card.ask("large")
    card.failed("large", lasting=True)
    again = card.ask("large")
    assert card.refusal(again) is not None
    assert card.loads == ["large"]
    card.later(60)
    card.ask("large")
    assert card.loads == ["large", "large"]


def test_a_remembered_failure_sends_the_next_one_to_its_other_choice() -> None:
    card = Card(24)
    card.tenant("large", 20)
    card.warm("small", 4)
    card.ask("large")
    card.failed("large", lasting=True)
    ticket = card.ask("large", "small")
    assert card.granted(ticket) == "small"
    assert "ran out of memory" in card.instead(ticket)


def test_a_passing_failure_is_not_remembered() -> None:
    card = Card(24)
    card.tenant("large", 20)
    card.ask("large")
    card.failed("large")
    ticket = card.ask("large")
    card.settle()
    assert card.granted(ticket)


def test_a_model_that_is_there_is_served_whatever_was_remembered() -> None:
    card = Card(24)
    card.tenant("large", 20)
    card.ask("large")
    card.failed("large", lasting=True)
    card.warm("large")
    assert card.granted(card.ask("large"))
    card.vanished("large")
    assert card.refusal(card.ask("large")) is None


def test_a_load_that_succeeds_clears_what_was_remembered() -> None:
    card = Card(24)
    card.tenant("large", 20)
    waiting = card.ask("large")
    card.failed("large", lasting=True)
    assert card.refusal(waiting)
    assert [key for key, _ in card.scheduler.snapshot(card.now).remembered] == ["large"]
    card.warm("large")
    assert not card.scheduler.snapshot(card.now).remembered


def test_a_model_that_vanished_is_loaded_again_for_those_who_wait() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    running, waiting = card.ask("chat"), card.ask("chat")
    card.vanished("chat")
    assert card.loads == ["chat"]
    card.settle()
    assert card.granted(waiting)
    card.end(running)
    assert card.running("chat") == 1


def test_what_appears_without_a_load_is_served_and_counted() -> None:
    card = Card(24)
    card.tenant("code", 16)
    card.warm("chat", 16)
    assert card.granted(card.ask("chat"))
    assert card.waits(card.ask("code"))


def test_answers_of_loads_and_unloads_that_nobody_asked_for_change_nothing() -> None:
    card = Card(24)
    card.warm("chat", 20)
    running = card.ask("chat")
    card.failed("chat")
    card.unloaded("chat")
    assert card.running("chat") == 1
    card.end(running)
    assert card.state("chat") == "ready"
