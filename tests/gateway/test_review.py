"""What goes wrong seldom: parts that end under others, faults of narthex itself, lists that change."""

from __future__ import annotations

import asyncio

from .test_conductor import PATIENCE_S, Stage, play, trouble_of, until


def test_a_load_whose_hand_ends_under_it_is_answered_and_the_next_one_loads() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = asyncio.CancelledError()  # type: ignore[assignment]
        assert (await trouble_of(stage.get("a"))).cause == "load_called_off"
        stage.puppet.load_error = None
        assert (await stage.get("b")).offer_key == "b"

    play(scene)


def test_an_unload_whose_hand_ends_under_it_holds_up_nobody() -> None:
    async def scene(stage: Stage) -> None:
        stage.conductor.release(await stage.get("a"))
        stage.puppet.unload_error = asyncio.CancelledError()  # type: ignore[assignment]
        stage.puppet.there.clear()
        assert (await stage.get("c")).offer_key == "c"
        await until(lambda: stage.states() == {"c": "ready"})

    play(scene)
