"""What is always true of a scheduler's state; tests ask after each event."""

from __future__ import annotations

from collections.abc import Mapping

from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.wait import Wait


def check(ledger: Ledger, waits: Mapping[int, Wait], granted: Mapping[int, str]) -> None:
    """Raises AssertionError where the state contradicts itself."""
    assert not waits.keys() & granted.keys(), "a ticket waits and runs"
    running = [ticket for place in ledger.places.values() for ticket in place.running]
    assert len(running) == len(set(running)), "a ticket runs twice"
    assert set(running) <= granted.keys(), "a ticket runs that was not granted"
    loading = [place for place in ledger.places.values() if place.state is State.LOADING]
    assert len(loading) <= 1, "two loads at a time"
    for place in ledger.places.values():
        _check_place(place)
    for place in loading:
        beside = [row for row in ledger.places.values() if row is not place]
        alone = place.tenant.exclusive or any(row.tenant.exclusive for row in beside)
        assert not (alone and beside), "a load beside one that has the card alone"
        twins = [row for row in beside if row.tenant.twin and row.tenant.twin == place.tenant.twin]
        assert not twins, "a load beside its twin"
    for ticket, wait in waits.items():
        assert ticket == wait.ticket.id, "a ticket under another's number"
        assert wait.key in wait.ticket.choices, "a ticket waits for what it did not ask for"
        there = ledger.places.get(wait.key)
        assert wait.key not in wait.passed or there is not None, "a ticket waits for what failed for it"


def _check_place(place: Place) -> None:
    assert place.ready or not place.running, "work where nothing is loaded"
    assert (place.idle_since is None) == (bool(place.running) or not place.ready), "idle and at work"
    slots = place.tenant.slots
    assert slots is None or len(place.running) <= slots, "more work than slots"
