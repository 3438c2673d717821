"""What somebody asked to go, and what comes back after an image."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def painted(card: Card) -> int:
    """An image that has the card; a chat had to go for it."""
    card.warm("chat", 20, name="chat:32b")
    image = card.ask(card.tenant("painter", 20, comes_back=False, keep_alive_s=0.0), rank=Rank.IMAGE)
    card.settle()
    assert card.granted(image)
    return image


def test_what_an_admin_let_go_while_an_image_ran_does_not_come_back() -> None:
    card = Card(24)
    image = painted(card)
    card.release("chat")
    card.end(image)
    card.settle()
    card.later(60)
    assert card.loads == ["painter"]


def test_it_comes_back_though_others_wait_for_a_busy_model() -> None:
    card = Card(24)
    card.warm("small", 2, slots=1)
    image = painted(card)
    card.ask("small")
    waiting = card.ask("small")
    card.end(image)
    card.settle()
    assert card.loads == ["painter", "chat"]
    assert card.waits(waiting)


def test_who_wants_room_comes_before_what_was_there() -> None:
    card = Card(24)
    image = painted(card)
    code = card.ask(card.tenant("code", 3))
    card.settle()
    assert card.granted(code)
    card.end(image)
    card.settle()
    assert card.loads == ["painter", "code", "chat"]


def test_a_model_is_told_why_it_goes() -> None:
    card = Card(24)
    card.warm("chat", 20)
    assert [effect.why for effect in card.release("chat")] == ["an admin asked for it"]  # type: ignore[union-attr]


def test_one_that_is_let_go_while_it_loads_serves_those_who_wait_for_it_and_goes() -> None:
    card = Card(24)
    ticket = card.ask(card.tenant("chat", 20))
    card.release("chat")
    card.loaded("chat")
    assert card.granted(ticket)
    assert not card.unloads
    card.end(ticket)
    assert card.unloads == ["chat"]


def test_an_answer_of_a_former_life_does_not_count_in_the_new_one() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    old = card.ask("chat")
    card.vanished("chat")
    new = card.ask("chat")
    card.settle()
    assert card.granted(new)
    card.end(old)
    assert card.running("chat") == 1
    assert card.waits(card.ask("chat"))
