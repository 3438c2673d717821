"""A study has the card alone; what went for it or for an image comes back."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def study(card: Card) -> int:
    card.tenant("study", None, exclusive=True, slots=1, keep_alive_s=0.0, comes_back=False)
    return card.ask("study")


def test_a_study_waits_for_the_answers_and_then_has_the_card_alone() -> None:
    card = Card(24)
    card.warm("chat", 8)
    card.warm("embed", 4)
    running = card.ask("chat")
    ticket = study(card)
    assert card.waits(ticket)
    card.end(running)
    card.later(2)
    card.settle()
    assert sorted(card.unloads) == ["chat", "embed"]
    assert card.granted(ticket)


def test_while_a_study_runs_the_others_wait_and_their_time_goes_by() -> None:
    card = Card(24)
    ticket = study(card)
    card.settle()
    assert card.granted(ticket)
    card.tenant("chat", 8)
    waiting, short = card.ask("chat"), card.ask("chat", until=30.0)
    card.later(30)
    trouble = card.refusal(short)
    assert trouble is not None
    assert "study" in trouble.message
    card.later(100)
    assert card.waits(waiting)
    card.end(ticket)
    card.settle()
    assert card.granted(waiting)


def test_a_study_does_not_wait_for_ever() -> None:
    card = Card(24, starvation_s=60.0)
    card.warm("chat", 8)
    running = card.ask("chat")
    ticket = study(card)
    card.later(60)
    assert card.waits(card.ask("chat"))
    card.end(running)
    card.settle()
    assert card.granted(ticket)


def test_a_second_study_does_not_go_before_people_who_wait() -> None:
    card = Card(24)
    first = study(card)
    card.settle()
    person = card.ask(card.tenant("chat", 8))
    second = card.ask("study")
    card.end(first)
    card.settle()
    assert card.granted(person)
    assert card.waits(second)
    card.end(person)
    card.later(2)
    card.settle()
    assert card.granted(second)


def test_a_study_for_which_the_card_was_emptied_begins_though_people_came_meanwhile() -> None:
    card = Card(24)
    card.warm("chat", 8)
    card.tenant("study", None, exclusive=True, slots=1, keep_alive_s=0.0)
    ticket = card.ask("study", rank=Rank.BACKGROUND)
    card.unloaded("chat")
    person = card.ask("chat")
    card.loaded("study")
    assert card.granted(ticket)
    assert card.waits(person)


def test_a_study_beside_a_pinned_model_is_refused_with_its_name() -> None:
    card = Card(24)
    card.warm("mine", 8, pinned=True)
    trouble = card.refusal(study(card))
    assert trouble is not None
    assert "mine" in trouble.message


def test_what_was_loaded_before_a_study_is_loaded_again() -> None:
    card = Card(24)
    card.warm("chat", 8)
    card.warm("embed", 4)
    ticket = study(card)
    card.settle()
    card.end(ticket)
    card.settle()
    assert sorted(card.loads[1:]) == ["chat", "embed"]
    assert card.state("study") == ""


def test_without_that_policy_nothing_comes_back() -> None:
    card = Card(24, restore=False)
    card.warm("chat", 8)
    ticket = study(card)
    card.settle()
    card.end(ticket)
    card.settle()
    assert card.loads == ["study"]


def test_who_waits_comes_before_what_was_there() -> None:
    card = Card(24)
    card.warm("chat", 20)
    ticket = study(card)
    card.settle()
    other = card.ask(card.tenant("code", 20))
    card.end(ticket)
    card.settle()
    assert card.granted(other)
    assert "chat" not in card.loads


def test_a_model_that_went_for_an_image_comes_back_after_it() -> None:
    card = Card(24)
    card.warm("chat", 20)
    card.tenant("comfyui", 12, comes_back=False)
    image = card.ask("comfyui", rank=Rank.IMAGE)
    card.settle()
    assert card.unloads == ["chat"]
    assert card.granted(image)
    card.end(image)
    card.settle()
    assert card.state("chat") == "ready"
    assert card.state("comfyui") == ""


def test_it_comes_back_beside_an_image_program_that_is_small_enough() -> None:
    card = Card(24)
    card.warm("chat", 12)
    card.tenant("comfyui", 14)
    image = card.ask("comfyui", rank=Rank.IMAGE)
    card.settle()
    card.observe(comfyui=6)
    card.end(image)
    card.settle()
    assert card.state("chat") == "ready"
    assert card.state("comfyui") == "ready"


def test_a_load_that_fails_when_coming_back_is_left_alone() -> None:
    card = Card(24)
    card.warm("chat", 20)
    ticket = study(card)
    card.settle()
    card.end(ticket)
    card.settle(fail="chat")
    assert card.loads == ["study", "chat"]


def test_what_comes_while_a_study_has_the_card_is_the_studys_own() -> None:
    card = Card(24)
    card.tenant("chat", 8)
    study(card)
    card.settle()
    card.warm("chat")
    assert card.state("chat") == ""
