"""People read names, never keys."""

from __future__ import annotations

from .card import Card

BIG, SMALL = "ollama/big:32b#1f2e", "ollama/small:4b#9a8b"


def test_a_fallback_says_in_a_clause_why_it_answers() -> None:
    card = Card(24)
    ticket = card.ask(card.tenant(BIG, 20, name="big:32b"), card.tenant(SMALL, 4, name="small:4b"))
    card.failed(BIG)
    card.settle()
    assert card.granted(ticket) == SMALL
    assert card.instead(ticket).startswith("«big:32b» could not be loaded: ")
    assert not card.instead(ticket).endswith(".")


def test_the_first_choice_is_named_though_a_second_one_failed_too() -> None:
    card = Card(24)
    ticket = card.ask(card.tenant("a", 20, name="A"), card.tenant("b", 20, name="B"), card.tenant("c", 20))
    card.settle(fail="a")
    assert card.granted(ticket) == "b"
    assert "«A»" in card.instead(ticket)


def test_one_without_room_is_said_to_be_out_of_reach_now() -> None:
    card = Card(24)
    ticket = card.ask(card.tenant(BIG, 60, name="big:32b"), card.tenant(SMALL, 4, name="small:4b"))
    card.settle()
    assert card.instead(ticket).startswith("«big:32b» can't be had now: It needs 60.0 GiB")


def test_who_waited_too_long_reads_names() -> None:
    card = Card(24)
    card.warm(SMALL, 20, name="small:4b")
    card.ask(SMALL)
    late = card.ask(card.tenant(BIG, 20, name="big:32b"), until=5.0)
    card.later(5)
    refusal = card.refusal(late)
    assert refusal is not None
    assert "for «big:32b»: «small:4b» was in the way" in refusal.message


def test_who_goes_for_another_is_told_its_name() -> None:
    card = Card(24)
    card.warm(SMALL, 20, name="small:4b")
    card.ask(card.tenant(BIG, 20, name="big:32b"))
    assert [effect.why for effect in card.effects] == ["room for «big:32b»"]  # type: ignore[union-attr]


def test_whose_time_was_over_when_it_came_reads_what_it_waited_for() -> None:
    card = Card(24)
    card.warm(SMALL, 20, name="small:4b")
    card.ask(SMALL)
    late = card.ask(card.tenant(BIG, 20, name="big:32b"), until=0.0)
    refusal = card.refusal(late)
    assert refusal is not None
    assert "for «big:32b»" in refusal.message
