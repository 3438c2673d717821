"""Who is let in: slots, room, and what is refused at once."""

from __future__ import annotations

import pytest

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Grant, Load

from .card import Card


def test_a_warm_model_with_a_free_slot_is_granted_at_once() -> None:
    card = Card()
    card.warm("chat", 8)
    assert card.granted(card.ask("chat")) == "chat"
    assert not card.loads


def test_no_more_than_its_slots_run_and_the_rest_follows_by_rank_then_arrival() -> None:
    card = Card()
    card.warm("chat", 8, slots=1)
    first = card.ask("chat")
    embedding = card.ask("chat", rank=Rank.EMBEDDING)
    second, third = card.ask("chat"), card.ask("chat")
    for running, following in ((first, second), (second, third), (third, embedding)):
        assert card.running("chat") == 1
        assert not card.granted(following)
        card.end(running)
        assert card.granted(following) == "chat"


def test_a_place_that_is_given_back_is_taken_while_others_still_run() -> None:
    card = Card()
    card.warm("chat", 8, slots=2)
    first, _, third = (card.ask("chat") for _ in range(3))
    assert card.waits(third)
    card.end(first)
    assert card.granted(third)


def test_a_model_that_got_more_slots_serves_those_who_waited_first() -> None:
    card = Card()
    card.warm("chat", 8, slots=1)
    card.ask("chat")
    waiting = card.ask("chat")
    card.tenant("chat", 8, slots=2)
    late = card.ask("chat")
    assert card.granted(waiting)
    assert card.waits(late)


def test_without_slots_all_run() -> None:
    card = Card()
    card.warm("chat", 8)
    assert all(card.granted(card.ask("chat")) for _ in range(100))


def test_what_fits_lives_side_by_side() -> None:
    card = Card(24)
    card.tenant("chat", 16)
    card.tenant("embed", 8)
    one, two = card.ask("chat"), card.ask("embed")
    card.settle()
    assert card.granted(one) == "chat"
    assert card.granted(two) == "embed"
    assert not card.unloads


def test_reserve_and_other_programs_count() -> None:
    card = Card(24, reserve=1, others=2)
    card.tenant("chat", 16)
    card.tenant("embed", 6)
    busy, waiting = card.ask("chat"), card.ask("embed")
    card.settle()
    assert card.granted(busy)
    assert card.waits(waiting)


def test_what_a_model_really_held_counts_from_then_on() -> None:
    card = Card(24)
    card.tenant("chat", 20)
    card.tenant("embed", 6)
    card.ask("chat")
    card.loaded("chat", held=17)
    beside = card.ask("embed")
    card.settle()
    assert card.granted(beside)


def test_a_model_that_grew_is_counted_with_what_it_has_grown_to() -> None:
    card = Card(24)
    card.warm("chat", 16)
    card.ask("chat")
    card.observe(chat=20)
    card.tenant("embed", 6)
    assert card.waits(card.ask("embed"))


def test_without_a_known_total_everything_is_let_in() -> None:
    card = Card(None)
    tickets = [card.ask(card.tenant(key, 1000)) for key in "abc"]
    card.settle()
    assert all(card.granted(ticket) for ticket in tickets)


def test_what_fits_nowhere_is_refused_at_once_with_the_figures() -> None:
    card = Card(24, reserve=1, others=3)
    card.tenant("huge", 30)
    trouble = card.refusal(card.ask("huge"))
    assert trouble is not None
    assert (trouble.status, trouble.cause) == (507, "vram_does_not_fit")
    assert all(size in trouble.message for size in ("30.0 GiB", "24.0 GiB", "1.00 GiB", "3.00 GiB"))
    assert trouble.remedy
    assert not card.effects[:-1]


def test_where_only_other_programs_are_in_the_way_it_may_come_again() -> None:
    card = Card(24, reserve=1, others=10)
    card.tenant("chat", 20)
    trouble = card.refusal(card.ask("chat"))
    assert trouble is not None
    assert (trouble.status, trouble.cause) == (503, "vram_held_by_others")
    assert trouble.retry_after_s
    card.observe(others=0)
    card.ask("chat")
    assert card.loads == ["chat"]


def test_what_does_not_fit_goes_to_the_next_choice_and_says_why() -> None:
    card = Card(24)
    card.tenant("huge", 30)
    card.warm("small", 4)
    ticket = card.ask("huge", "small")
    assert card.granted(ticket) == "small"
    assert "30.0 GiB" in card.instead(ticket)


def test_an_elastic_engine_loads_with_what_there_is() -> None:
    card = Card(24, reserve=1)
    card.tenant("huge", 30, elastic=True)
    ticket = card.ask("huge")
    card.settle()
    assert card.granted(ticket) == "huge"


def test_a_need_that_nobody_knows_takes_the_whole_card() -> None:
    card = Card(24)
    card.warm("chat", 1)
    card.tenant("riddle", None)
    ticket = card.ask("riddle")
    card.settle()
    assert card.unloads == ["chat"]
    assert card.granted(ticket)


def test_a_name_that_nobody_knows_is_refused() -> None:
    card = Card()
    trouble = card.refusal(card.ask("nobody"))
    assert trouble is not None
    assert trouble.cause == "model_not_found"


def test_a_full_queue_refuses_with_its_length_but_serves_what_is_warm() -> None:
    card = Card(24, queue=2)
    card.warm("chat", 20, slots=2)
    card.ask("chat")
    card.tenant("code", 20)
    waiting = [card.ask("code"), card.ask("code")]
    trouble = card.refusal(card.ask("code"))
    assert trouble is not None
    assert (trouble.status, trouble.cause) == (503, "queue_full")
    assert trouble.figures["waiting"] == 2
    assert trouble.retry_after_s
    assert all(card.waits(ticket) for ticket in waiting)
    assert card.granted(card.ask("chat")) == "chat"


def test_whoever_waited_too_long_hears_what_was_in_the_way() -> None:
    card = Card(24)
    card.warm("chat", 20)
    card.ask("chat")
    card.tenant("code", 20)
    late = card.ask("code", until=30.0)
    card.later(29)
    assert card.waits(late)
    card.later(1)
    trouble = card.refusal(late)
    assert trouble is not None
    assert (trouble.status, trouble.cause) == (503, "waited_too_long")
    assert "chat" in trouble.message
    assert trouble.retry_after_s


def test_whoever_may_not_wait_at_all_is_refused_and_holds_up_nobody() -> None:
    card = Card(24)
    card.tenant("code", 20)
    trouble = card.refusal(card.ask("code", until=0.0))
    assert trouble is not None
    assert trouble.cause == "waited_too_long"
    assert card.waits(card.ask("code"))


def test_a_background_call_waits_for_its_time() -> None:
    card = Card()
    card.warm("chat", 8)
    title = card.ask("chat", rank=Rank.BACKGROUND, not_before=2.0)
    card.later(1.9)
    assert card.waits(title)
    card.later(0.1)
    assert card.granted(title)


def test_a_background_call_waits_for_peoples_own_on_its_model() -> None:
    card = Card()
    card.warm("chat", 8, slots=4)
    own = card.ask("chat")
    title = card.ask("chat", rank=Rank.BACKGROUND)
    assert card.waits(title)
    card.end(own)
    assert card.granted(title)


def test_a_background_call_is_not_put_off_for_ever() -> None:
    card = Card(starvation_s=60.0)
    card.warm("chat", 8, slots=4)
    card.ask("chat")
    title = card.ask("chat", rank=Rank.BACKGROUND)
    card.later(59)
    assert card.waits(title)
    card.later(1)
    assert card.granted(title)


def test_a_fallback_that_is_loaded_is_preferred_where_the_policy_says_so() -> None:
    card = Card(prefer_resident=True)
    card.tenant("large", 20)
    card.warm("small", 4)
    ticket = card.ask("large", "small")
    assert card.granted(ticket) == "small"
    assert card.instead(ticket)
    assert not card.loads


def test_without_that_policy_the_first_choice_is_loaded() -> None:
    card = Card()
    card.tenant("large", 20)
    card.warm("small", 4)
    ticket = card.ask("large", "small")
    card.settle()
    assert card.granted(ticket) == "large"
    assert card.instead(ticket) == ""


@pytest.mark.parametrize("twice", [False, True])
def test_an_end_gives_back_one_place_however_often_it_is_told(twice: bool) -> None:
    card = Card()
    card.warm("chat", 8, slots=1)
    first, second, third = (card.ask("chat") for _ in range(3))
    card.end(first)
    if twice:
        card.end(first)
        card.cancel(first)
    assert card.granted(second)
    assert card.waits(third)


def test_a_card_of_nobody_asks_for_no_wake_up() -> None:
    card = Card()
    card.tenant("chat", 8)
    assert card.scheduler.wake_at() is None


def test_a_load_names_who_waits_for_it_and_what_had_to_go() -> None:
    card = Card(24)
    card.warm("old", 20)
    card.tenant("chat", 20)
    card.ask("chat", client="webui")
    card.ask("chat", client="ide")
    card.settle()
    load = next(one for one in card.effects if isinstance(one, Load))
    assert load.clients == ("webui", "ide")
    assert load.evicted == ("old",)
    assert sum(isinstance(one, Grant) for one in card.effects) == 2
