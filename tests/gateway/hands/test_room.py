"""The room: under a budget, without a card, elsewhere. What a card adds is arithmetic here."""

from __future__ import annotations

import asyncio

import pytest

from narthex.gateway.hands.room import RoomReader, read_room, room_words, shared_out
from narthex.gateway.schedule.records import Room
from narthex.host.gpu import open_nvml
from narthex.units import GIB

NVML = open_nvml()[0]
without_card = pytest.mark.skipif(
    NVML is not None and bool(NVML.devices()), reason="this machine has a card that NVML knows"
)


class Tenants:
    """A hand with these holdings."""

    def __init__(self, **told: int) -> None:
        self._told = told

    def pids(self) -> dict[str, frozenset[int]]:
        return {}

    def told(self) -> dict[str, int]:
        return {key.replace("__", ":"): size for key, size in self._told.items()}


def test_strangers_take_from_the_card() -> None:
    room = shared_out(20 * GIB, 9 * GIB, {"a": 6 * GIB}, None, GIB)
    assert room == Room(total=20 * GIB, reserve=GIB, others=3 * GIB)


def test_under_a_budget_strangers_count_only_where_they_reach_into_it() -> None:
    assert shared_out(80 * GIB, 10 * GIB, {}, 20 * GIB, 0) == Room(total=20 * GIB)
    assert shared_out(80 * GIB, 70 * GIB, {}, 20 * GIB, 0) == Room(total=20 * GIB, others=10 * GIB)
    assert shared_out(8 * GIB, 2 * GIB, {}, 20 * GIB, 0) == Room(total=8 * GIB, others=2 * GIB)


def test_an_engine_elsewhere_has_the_budget_or_an_unknown_room() -> None:
    assert read_room(None, GIB, {}, elsewhere=True)[0] == Room(total=None, reserve=GIB)
    assert read_room(8 * GIB, 0, {}, elsewhere=True)[0] == Room(total=8 * GIB)
    assert "no budget" in room_words(None, elsewhere=True)


@without_card
def test_without_a_card_a_budget_is_the_room_and_the_main_memory_else() -> None:
    reader = RoomReader(2 * GIB, 0, [Tenants(a=GIB), Tenants(ollama__theirs=GIB // 2)])
    room, held = asyncio.run(reader())
    assert room == Room(total=2 * GIB)
    assert sum(held.values()) == GIB + GIB // 2, "what an Ollama holds for others is held like the rest"
    free, _ = RoomReader(None, 0, []).now()
    assert free.total is not None
    assert free.total > free.others
    assert "main memory" in RoomReader(None, 0, []).words
