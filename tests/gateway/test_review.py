"""What goes wrong seldom: parts that end under others, faults of narthex itself, lists that change."""

from __future__ import annotations

import asyncio
import traceback

from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble

from .test_conductor import Stage, offer, play, trouble_of, until


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


def test_a_failure_that_is_remembered_keeps_nobody_who_heard_it() -> None:
    async def scene(stage: Stage) -> None:
        stage.puppet.load_error = Trouble(507, "vram_does_not_fit", "It is too large.", lasting=True)
        lengths = [
            len(list(traceback.walk_tb((await trouble_of(stage.get("a"))).__traceback__))) for _ in range(4)
        ]
        assert len(set(lengths[1:])) == 1

    play(scene)


def test_words_about_a_study_and_comfyui_stay_words_however_often_they_are_told() -> None:
    async def scene(stage: Stage) -> None:
        for key, name in (("study", "a study"), ("comfyui", "ComfyUI")):
            stage.conductor.add(Tenant(key=key, need=10, slots=1), stage.puppet, offer(key, name))
        words = "study has the card; comfyui_url in [gateway] names comfyui"
        stage.puppet.load_error = Trouble(502, "comfyui_unreachable", words, lasting=True)
        for _ in range(3):
            found = await trouble_of(stage.get("a"))
            assert found.message == "a study has the card; comfyui_url in [gateway] names ComfyUI"

    play(scene)


def test_why_it_is_another_choice_is_told_with_names() -> None:
    async def scene(stage: Stage) -> None:
        for key, name in (("file#1", "one:7b"), ("file#2", "two:7b")):
            stage.conductor.add(Tenant(key=key, need=10, slots=2), stage.puppet, offer(key, name))
        stage.conductor.release(await stage.get("file#2"))
        granted = await stage.get("file#1", "file#2")
        assert granted.offer_key == "file#2"
        assert granted.instead == "«one:7b» is not loaded, and this one is."

    play(scene, prefer_resident=True)
