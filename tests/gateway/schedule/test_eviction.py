"""Who goes for whom."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def used(card: Card, *keys: str) -> None:
    """Each once, a second after the other."""
    for key in keys:
        card.later(1)
        card.end(card.ask(key))


def test_an_idle_embedder_is_evicted_before_a_busy_chat() -> None:
    card = Card(24)
    card.warm("embed", 8)
    card.warm("chat", 8)
    card.ask("chat")
    card.tenant("code", 16)
    card.ask("code")
    assert card.unloads == ["embed"]
    assert card.running("chat") == 1


def test_the_least_recently_used_goes_first() -> None:
    card = Card(24)
    for key in ("a", "b", "c"):
        card.warm(key, 8)
    used(card, "c", "a", "b")
    card.later(10)
    card.ask(card.tenant("new", 8))
    assert card.unloads == ["c"]


def test_no_more_goes_than_is_needed() -> None:
    card = Card(20)
    for key, need in (("small", 1), ("middle", 9), ("large", 10)):
        card.warm(key, need)
    used(card, "small", "middle", "large")
    card.later(10)
    card.ask(card.tenant("new", 11))
    assert card.unloads == ["small", "large"]


def test_a_load_begins_only_when_the_memory_is_free() -> None:
    card = Card(24)
    card.warm("a", 12)
    card.warm("b", 12)
    card.ask(card.tenant("new", 24))
    assert sorted(card.unloads) == ["a", "b"]
    card.unloaded("a")
    assert not card.loads
    card.unloaded("b")
    assert card.loads == ["new"]


def test_a_pinned_one_stays_and_is_named() -> None:
    card = Card(24)
    card.warm("mine", 16, pinned=True, keep_alive_s=-1.0)
    trouble = card.refusal(card.ask(card.tenant("chat", 16)))
    assert trouble is not None
    assert (trouble.status, trouble.cause) == (503, "vram_pinned")
    assert "mine" in trouble.message
    assert trouble.remedy


def test_beside_a_pinned_one_the_others_go() -> None:
    card = Card(24)
    card.warm("mine", 4, pinned=True)
    card.warm("chat", 16)
    ticket = card.ask(card.tenant("code", 20))
    card.settle()
    assert card.unloads == ["chat"]
    assert card.granted(ticket)


def test_a_pinned_one_that_an_admin_lets_go_is_in_nobodys_way() -> None:
    card = Card(24)
    card.warm("mine", 16, pinned=True)
    card.release("mine")
    ticket = card.ask(card.tenant("chat", 16))
    assert card.refusal(ticket) is None
    card.settle()
    assert card.granted(ticket)


def test_nothing_goes_while_it_runs() -> None:
    card = Card(24)
    card.warm("chat", 20)
    running = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.later(50)
    assert not card.unloads
    card.end(running)
    card.later(2)
    assert card.unloads == ["chat"]
    card.settle()
    assert card.granted(waiting)


def test_a_model_in_use_between_two_answers_stays_for_its_residency() -> None:
    card = Card(24, residency_s=5.0)
    card.tenant("chat", 20)
    first = card.ask("chat")
    card.settle()
    card.end(first)
    card.later(0.5)
    second = card.ask("chat")
    waiting = card.ask(card.tenant("code", 20))
    card.end(second)
    assert not card.unloads
    third = card.ask("chat")
    assert card.granted(third)
    card.end(third)
    card.later(5)
    card.settle()
    assert card.granted(waiting)


def test_an_idle_model_that_nobody_asks_for_goes_at_once() -> None:
    card = Card(24, residency_s=5.0)
    card.tenant("chat", 20)
    first = card.ask("chat")
    card.settle()
    card.end(first)
    card.ask(card.tenant("code", 20))
    assert card.unloads == ["chat"]


def test_twins_are_never_there_together_though_there_is_room() -> None:
    card = Card(None)
    card.warm("short", 4, twin="blob")
    card.warm("other", 4)
    ticket = card.ask(card.tenant("long", 6, twin="blob"))
    assert card.unloads == ["short"]
    assert not card.loads
    card.settle()
    assert card.granted(ticket) == "long"


def test_one_load_at_a_time() -> None:
    card = Card(24)
    card.ask(card.tenant("a", 8))
    card.ask(card.tenant("b", 8))
    assert card.loads == ["a"]
    card.loaded("a")
    assert card.loads == ["a", "b"]


def test_people_come_before_images_embeddings_and_background() -> None:
    card = Card(24)
    card.warm("busy", 24, slots=1)
    running = card.ask("busy")
    for key, rank in (
        ("later", Rank.BACKGROUND),
        ("embed", Rank.EMBEDDING),
        ("image", Rank.IMAGE),
        ("chat", Rank.INTERACTIVE),
    ):
        card.tenant(key, 24)
        card.ask(key, rank=rank)
    card.end(running)
    while card.loads[-1:] != ["later"]:
        card.settle()
        for ticket in range(2, 6):
            if card.granted(ticket):
                card.end(ticket)
        card.later(2)
    order = list(dict.fromkeys(card.loads))
    assert order == ["chat", "image", "embed", "later"]


def test_what_other_programs_take_meanwhile_evicts_more() -> None:
    card = Card(24)
    card.warm("a", 8)
    card.warm("b", 8)
    card.observe(others=5)
    card.ask(card.tenant("c", 12))
    assert sorted(card.unloads) == ["a", "b"]
