"""ComfyUI lets go of the card when it is asked to, after what runs, and only the card's word counts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from narthex.gateway.comfyui.client import ComfyClient
from narthex.gateway.hands._base import Progress, Seen
from narthex.gateway.hands.comfyui import OWN_FIGURES, ComfyHand
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble
from narthex.testing.fake_comfyui import FakeComfyUI, portrait
from narthex.units import GIB, MIB

CONTEXT = 300 * MIB  # what a CUDA context takes, and never gives back
MODEL, WORK = GIB, GIB // 2  # on a machine with a card the fake really takes it


def quiet(progress: Progress) -> None:
    """Nobody waits."""


@pytest.fixture
def comfyui() -> Iterator[FakeComfyUI]:
    with FakeComfyUI(work_s=0.4, model_bytes=MODEL, work_bytes=WORK) as fake:
        yield fake


@asynccontextmanager
async def hand(comfyui: FakeComfyUI, *, driver: bool = True, **more: Any) -> AsyncIterator[ComfyHand]:
    """``driver``: the card tells what ComfyUI holds, its context with it."""
    client = ComfyClient(comfyui.url)
    try:
        yield ComfyHand(client, lambda: comfyui.executor.held_bytes + CONTEXT if driver else None, **more)
    finally:
        await client.close()


def begin(comfyui: FakeComfyUI, seed: int = 7) -> str:
    prompt_id = str(uuid.uuid4())
    comfyui.executor.put(prompt_id, portrait(seed), {}, front=False)
    return prompt_id


async def done(comfyui: FakeComfyUI) -> None:
    while comfyui.executor.remaining():
        await asyncio.sleep(0.01)


def asked(comfyui: FakeComfyUI) -> list[tuple[str, Any]]:
    return [(path, body) for method, path, body in comfyui.requests if method == "POST"]


def test_it_is_there_while_it_works_and_while_it_keeps_its_models(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui) as mine:
            begin(comfyui)
            assert [row.busy for row in await mine.look()] == [True]
            await done(comfyui)
            assert [(row.key, row.busy) for row in await mine.look()] == [("comfyui", False)]

    asyncio.run(story())


def test_an_unload_waits_for_the_running_prompt_and_for_the_cards_word(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui) as mine:
            prompts = [begin(comfyui, seed) for seed in (1, 2)]
            await mine.unload(mine.offer())
            assert comfyui.executor.held_bytes == 0
            ends = [comfyui.executor.history[each]["status"]["status_str"] for each in prompts]
            assert ends == ["success", "success"]
            assert asked(comfyui) == [("/free", {"unload_models": True, "free_memory": False})]
            assert await mine.look() == ()  # its context stays, and is not worth another unload

    asyncio.run(story())


def test_what_can_give_nothing_back_is_not_asked_again(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui, settle_s=0.3) as mine:
            await mine.unload(mine.offer())
            await mine.unload(mine.offer())
            assert len(asked(comfyui)) == 1

    asyncio.run(story())


def test_models_that_main_memory_has_no_room_for_are_dropped() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=MODEL, ram_free=GIB // 2) as comfyui:
            async with hand(comfyui) as mine:
                begin(comfyui)
                await done(comfyui)
                await mine.unload(mine.offer())
                assert asked(comfyui) == [("/free", {"unload_models": True, "free_memory": True})]

    asyncio.run(story())


def test_its_need_is_the_most_that_a_whole_job_took(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        grown: list[Tenant] = []

        def grew(tenant: Tenant, offer: Offer) -> None:
            assert (offer.need_bytes, offer.need_source) == (tenant.need, "observed")
            grown.append(tenant)

        async with hand(comfyui, grew=grew) as mine:
            await mine.look()
            assert mine.tenant().need is None  # what it holds before any work is no need
            begin(comfyui)
            while comfyui.executor.remaining():
                await mine.look()
            await mine.look()
            assert [row.need for row in grown] == [MODEL + WORK + CONTEXT]
            assert mine.tenant().need == MODEL + WORK + CONTEXT

    asyncio.run(story())


def test_the_policys_figure_goes_before_what_was_seen(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui, vram=9 * GIB) as mine:
            begin(comfyui)
            while comfyui.executor.remaining():
                await mine.look()
            assert mine.tenant().need == 9 * GIB
            assert mine.offer().need_source == "policy"
            assert await mine.withheld_bytes() == 9 * GIB - MODEL - CONTEXT

    asyncio.run(story())


def test_its_place_counts_as_much_as_an_image_needs_whatever_it_holds(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui, vram=5 * GIB) as mine:
            assert await mine.load(mine.offer(), quiet) == 5 * GIB
            assert await mine.look() == (Seen(key="comfyui", held=5 * GIB, busy=False),)
            assert mine.claim(8 * GIB) == 8 * GIB
        async with hand(comfyui) as mine:
            assert await mine.load(mine.offer(), quiet) is None  # nobody has seen an image yet

    asyncio.run(story())


def test_without_the_cards_word_its_own_figures_count_and_that_is_said(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui, driver=False) as mine:
            begin(comfyui)
            await done(comfyui)
            assert [row.key for row in await mine.look()] == ["comfyui"]
            assert mine.gaps == (OWN_FIGURES,)
            await mine.unload(mine.offer())
            assert comfyui.executor.held_bytes == 0

    asyncio.run(story())


def test_on_the_cpu_it_holds_nothing_of_the_card() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.05, device="cpu") as comfyui:
            async with hand(comfyui, driver=False) as mine:
                begin(comfyui)
                await done(comfyui)
                assert await mine.look() == ()
                assert mine.gaps == ()
                assert mine.tenant().need == 0

    asyncio.run(story())


def test_its_place_counts_from_the_load_on_although_it_holds_nothing_yet(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui, settle_s=0.3) as mine:
            await mine.unload(mine.offer())
            assert await mine.look() == ()
            await mine.load(mine.offer(), quiet)
            assert [row.key for row in await mine.look()] == ["comfyui"]

    asyncio.run(story())


def test_one_that_is_gone_holds_no_place_and_cannot_be_loaded(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with hand(comfyui) as mine:
            await mine.load(mine.offer(), quiet)
            comfyui.vanish()
            assert await mine.look() == ()
            await mine.unload(mine.offer())
            with pytest.raises(Trouble) as trouble:
                await mine.load(mine.offer(), quiet)
            assert trouble.value.cause == "comfyui_unreachable"
            assert await mine.withheld_bytes() == 0

    asyncio.run(story())
