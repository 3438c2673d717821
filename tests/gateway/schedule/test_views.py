"""What would happen, and what is."""

from __future__ import annotations

from narthex.gateway.ask import Rank

from .card import Card


def test_a_forecast_of_a_warm_model() -> None:
    card = Card()
    card.warm("chat", 8)
    found = card.scheduler.forecast(["chat"], Rank.INTERACTIVE, 0.0)
    assert (found.key, found.ready, found.evicts, found.waits_for) == ("chat", True, (), ())


def test_a_forecast_names_who_would_go_and_who_must_end_first() -> None:
    card = Card(24)
    card.warm("idle", 12)
    card.warm("busy", 12)
    card.ask("busy")
    card.tenant("chat", 20)
    found = card.scheduler.forecast(["chat"], Rank.INTERACTIVE, card.now)
    assert (found.key, found.ready) == ("chat", False)
    assert set(found.evicts) == {"idle", "busy"}
    assert found.waits_for == ("busy",)


def test_a_forecast_prefers_idle_ones() -> None:
    card = Card(24)
    card.warm("busy", 12)
    card.ask("busy")
    card.warm("idle", 12)
    card.tenant("chat", 12)
    found = card.scheduler.forecast(["chat"], Rank.INTERACTIVE, card.now)
    assert found.evicts == ("idle",)
    assert not found.waits_for


def test_a_forecast_of_a_refusal_says_why() -> None:
    card = Card(24)
    card.tenant("huge", 100)
    found = card.scheduler.forecast(["huge"], Rank.INTERACTIVE, 0.0)
    assert found.key is None
    assert "100.0 GiB" in found.trouble


def test_a_forecast_of_a_fallback_says_why() -> None:
    card = Card(24)
    card.tenant("huge", 100)
    card.tenant("small", 4)
    found = card.scheduler.forecast(["huge", "small"], Rank.INTERACTIVE, 0.0)
    assert found.key == "small"
    assert "100.0 GiB" in found.why


def test_a_forecast_waits_for_a_study_and_for_a_load_under_way() -> None:
    card = Card(24)
    card.tenant("study", None, exclusive=True)
    card.ask("study")
    card.tenant("chat", 8)
    assert card.scheduler.forecast(["chat"], Rank.INTERACTIVE, 0.0).waits_for == ("study",)
    card.settle()
    assert card.scheduler.forecast(["chat"], Rank.INTERACTIVE, 0.0).waits_for == ("study",)


def test_a_forecast_counts_only_those_who_would_go_first() -> None:
    card = Card(24)
    card.warm("chat", 20, slots=1)
    card.ask("chat")
    card.ask("chat")
    card.ask("chat", rank=Rank.EMBEDDING)
    assert card.scheduler.forecast(["chat"], Rank.INTERACTIVE, 0.0).position == 1
    assert card.scheduler.forecast(["chat"], Rank.EMBEDDING, 0.0).position == 2


def test_a_forecast_changes_nothing() -> None:
    card = Card(24, starvation_s=10.0)
    card.warm("chat", 20)
    card.ask("chat")
    card.ask(card.tenant("code", 20))
    card.later(20)
    before = card.scheduler.snapshot(card.now)
    for choices in (["chat"], ["code"], ["nobody"], ["code", "chat"]):
        card.scheduler.forecast(choices, Rank.INTERACTIVE, card.now)
    assert card.scheduler.snapshot(card.now) == before


def test_a_snapshot_tells_who_holds_what_and_who_waits() -> None:
    card = Card(24)
    card.warm("chat", 20)
    card.observe(others=1, chat=21)
    card.ask("chat")
    card.ask(card.tenant("code", 20), client="ide")
    shot = card.scheduler.snapshot(card.now)
    assert shot.room.others == 2**30
    assert [(row.key, row.state, row.held, row.running) for row in shot.holdings] == [
        ("chat", "ready", 21 * 2**30, 1)
    ]
    assert [(row.wants, row.client) for row in shot.waiting] == [("code", "ide")]
