"""ComfyUI's share of the card: a batch holds it until its queue was empty for a while, and no longer."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from narthex.testing.comfyui.card import Place
from narthex.testing.fake_comfyui import FakeComfyUI, portrait

from .fronts import PATIENCE_S, Front, front, image, long_portrait, until

PROMPT = {"prompt": portrait()}


async def llm(here: Front) -> Place:
    """Another holder of the card."""
    return await here.card.acquire(["llm"], wait_s=PATIENCE_S)


def test_a_prompt_waits_for_its_turn_and_everything_else_does_not() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1) as comfyui:
            async with front(comfyui.url, lease=True) as here:
                chat = await llm(here)
                prompt = asyncio.create_task(image(here, portrait()))
                await until(lambda: len(here.card.waiting) == 1)
                assert (await here.ask("GET", "/queue"))[1] == {"queue_running": [], "queue_pending": []}
                assert comfyui.executor.remaining() == 0
                here.card.release(chat)
                assert (await prompt)[:4] == b"\x89PNG"
                after = await llm(here)
                assert here.card.events == ["+llm", "-llm", "+comfyui", "-comfyui", "+llm"]
                assert comfyui.executor.remaining() == 0
                here.card.release(after)

    asyncio.run(story())


def test_images_of_one_turn_share_one_turn_at_the_card() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1) as comfyui:
            async with front(comfyui.url, lease=True, linger_s=1.0) as here:
                await image(here, portrait(1))
                chat = asyncio.create_task(llm(here))
                await until(lambda: len(here.card.waiting) == 1)
                assert here.card.events == ["+comfyui"]
                assert here.arbiter is not None
                assert here.arbiter.holds  # although it is idle: the next one may come
                await chat
                assert here.card.events == ["+comfyui", "-comfyui", "+llm"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "body", [{}, {"prompt": {"1": {"class_type": "Nonsense"}}}], ids=["empty", "unknown node"]
)
def test_a_prompt_that_comfyui_refuses_gives_the_card_back_at_once(body: dict[str, Any]) -> None:
    async def story() -> None:
        with FakeComfyUI() as comfyui:
            async with front(comfyui.url, lease=True, linger_s=3600) as here:
                status, answer = await here.ask("POST", "/prompt", body)
                assert status == 400
                assert answer["error"]["type"] in ("no_prompt", "missing_node_type")
                assert here.card.events == ["+comfyui", "-comfyui"]

    asyncio.run(story())


def test_who_waits_too_long_is_refused_in_comfyuis_shape() -> None:
    async def story() -> None:
        with FakeComfyUI() as comfyui:
            async with front(comfyui.url, lease=True, wait_s=0.05) as here:
                await llm(here)
                async with here.session.post(f"{here.url}/prompt", json=PROMPT) as answer:
                    found = await answer.json()
                assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
                assert found["error"]["type"] == "busy"
                assert found["node_errors"] == {}
                assert comfyui.executor.remaining() == 0

    asyncio.run(story())


def test_who_leaves_while_it_waits_leaves_the_queue() -> None:
    async def story() -> None:
        with FakeComfyUI() as comfyui:
            async with front(comfyui.url, lease=True) as here:
                chat = await llm(here)
                prompt = asyncio.create_task(here.ask("POST", "/prompt", PROMPT))
                await until(lambda: len(here.card.waiting) == 1)
                prompt.cancel()
                await until(lambda: not here.card.waiting)
                here.card.release(chat)
                assert here.card.events == ["+llm", "-llm"]
                assert comfyui.executor.remaining() == 0

    asyncio.run(story())


def test_a_prompt_of_comfyuis_own_page_gets_a_place_as_well() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.3) as comfyui:
            async with front(comfyui.url, lease=True) as here:
                comfyui.executor.put(str(uuid.uuid4()), portrait(), {}, front=False)
                await until(lambda: bool(here.card.holders))
                assert here.card.doubts == 1
                assert here.card.holders[0].client == "ComfyUI's own page"
                await until(lambda: here.card.events == ["+comfyui", "-comfyui"])
                assert comfyui.executor.remaining() == 0

    asyncio.run(story())


def test_work_elsewhere_that_ended_before_its_turn_no_longer_waits() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.2) as comfyui:
            async with front(comfyui.url, lease=True) as here:
                chat = await llm(here)
                comfyui.executor.put(str(uuid.uuid4()), portrait(), {}, front=False)
                await until(lambda: len(here.card.waiting) == 1)
                await until(lambda: not here.card.waiting)
                here.card.release(chat)
                assert here.card.events == ["+llm", "-llm"]

    asyncio.run(story())


def test_a_comfyui_that_vanishes_gives_the_card_back() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=20) as comfyui:
            async with front(comfyui.url, lease=True, linger_s=3600) as here:
                assert (await here.ask("POST", "/prompt", {"prompt": long_portrait()}))[0] == 200
                assert here.card.events == ["+comfyui"]
                comfyui.vanish()
                await until(lambda: here.card.events == ["+comfyui", "-comfyui"])
                assert here.card.doubts == 1
                assert (await here.ask("POST", "/prompt", PROMPT))[0] == 502
                assert not here.card.holders

    asyncio.run(story())
