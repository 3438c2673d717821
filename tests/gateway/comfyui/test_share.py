"""LLM, image, LLM: the real conductor and the real hand share one card as one turn of OpenWebUI wants it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from narthex.gateway.comfyui.share import ComfyShare
from narthex.gateway.conductor import Conductor, Granted
from narthex.gateway.hands._base import Seen, Told
from narthex.gateway.hands.study import OFFER, TENANT, StudyHand
from narthex.gateway.lease import StudyLease
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.schedule.records import Room, Rules, Tenant
from narthex.gateway.trouble import Trouble
from narthex.policy.records import GatewayPolicy
from narthex.testing.fake_comfyui import FakeComfyUI, portrait
from narthex.units import GIB

from .fronts import PATIENCE_S, PREFIX, Front, image, long_portrait, until

CARD, LLM, IMAGE = 20 * GIB, 16 * GIB, 8 * GIB
NAME = "qwen3:30b"


class LlmHand:
    """A model that is loaded at once."""

    def __init__(self) -> None:
        self.loaded = False

    async def load(self, offer: Offer, told: Told) -> int | None:
        self.loaded = True
        return LLM

    async def unload(self, offer: Offer) -> None:
        self.loaded = False

    def upstream(self, offer: Offer) -> Upstream:
        return Upstream(url="", dialect="ollama", model=NAME)

    async def look(self) -> tuple[Seen, ...]:
        return (Seen(key="llm", held=LLM),) if self.loaded else ()

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        return Trouble(500, "unknown", words)

    async def close(self) -> None:
        pass


class Heard:
    """What was loaded and what went, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def loading(self, *words: Any) -> None:
        pass

    def loaded(self, offer: Offer, *words: Any) -> None:
        self.events.append(f"+{offer.key}")

    def failed(self, offer: Offer, *words: Any) -> None:
        self.events.append(f"!{offer.key}")

    def evicted(self, offer: Offer, *words: Any) -> None:
        self.events.append(f"-{offer.key}")

    def vanished(self, offer: Offer, *words: Any) -> None:
        self.events.append(f"~{offer.key}")


class House(Front):
    """A gateway's conductor with one model, a study's lease, and ComfyUI's share."""

    heard: Heard
    conductor: Conductor
    llm: LlmHand

    async def chat(self, wait_s: float = PATIENCE_S) -> Granted:
        return await self.conductor.acquire(["llm"], client="OpenWebUI", wait_s=wait_s)

    def there(self) -> set[str]:
        return {row.key for row in self.conductor.snapshot().holdings if row.state == "ready"}


@asynccontextmanager
async def house(there: FakeComfyUI, **policy: Any) -> AsyncIterator[House]:
    """The card is a budget, and ComfyUI's need is what the policy says."""
    usual: dict[str, Any] = {"comfyui": "lease", "comfyui_vram": IMAGE, "comfyui_linger": 0.1}
    rules = GatewayPolicy(**{**usual, **policy, "comfyui_url": there.url, "wait": PATIENCE_S})
    heard, llm = Heard(), LlmHand()
    share: ComfyShare

    async def observe() -> tuple[Room, Mapping[str, int]]:
        return Room(total=CARD, reserve=await share.withheld_bytes()), {}

    conductor = Conductor(
        Rules(residency_s=0.0, restore=rules.restore), Room(total=CARD), observe=observe, listener=heard
    )
    share = ComfyShare(rules, conductor)
    offer = Offer(key="llm", backend="ollama", name=NAME, model=NAME, twin=NAME)
    conductor.add(Tenant(key="llm", need=LLM), llm, offer)
    conductor.add(TENANT, StudyHand(), OFFER)
    lease = StudyLease(conductor, busy=lambda: busy(conductor))
    share.start()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if (route := lease.routes().get((request.method, request.path))) is not None:
            return await route(request, "", "")
        return await share.proxy.handle(request, request.rel_url.raw_path_qs.removeprefix(PREFIX))

    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        found = House(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
        found.heard, found.conductor, found.llm = heard, conductor, llm
        try:
            yield found
        finally:
            await runner.cleanup()
            await share.close()
            await conductor.close()


def busy(conductor: Conductor) -> Sequence[str]:
    return [row.key for row in conductor.snapshot().holdings if row.running]


def test_one_turn_with_an_image_costs_two_swaps() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui, restore=False) as here:
                chat = await here.chat()
                pictures = asyncio.create_task(image(here, portrait(1)))
                await until(lambda: len(here.conductor.snapshot().waiting) == 1)
                assert comfyui.executor.remaining() == 0
                here.conductor.release(chat)
                await pictures
                await image(here, portrait(2))
                here.conductor.release(await here.chat())
                assert here.heard.events == ["+llm", "-llm", "+comfyui", "-comfyui", "+llm"]
                assert comfyui.executor.held_bytes == 0

    asyncio.run(story())


def test_what_went_for_an_image_comes_back_after_it() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui) as here:
                here.conductor.release(await here.chat())
                await image(here, portrait())
                await until(lambda: here.there() == {"llm"})
                assert here.heard.events == ["+llm", "-llm", "+comfyui", "-comfyui", "+llm"]

    asyncio.run(story())


def test_what_fits_beside_an_image_stays() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui, comfyui_vram=4 * GIB) as here:
                chat = await here.chat()
                await image(here, portrait())
                assert here.there() == {"llm", "comfyui"}
                here.conductor.release(chat)

    asyncio.run(story())


def test_no_model_is_loaded_on_top_of_work_from_comfyuis_own_page() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui, restore=False) as here:
                prompt_id = str(uuid.uuid4())
                comfyui.executor.put(prompt_id, long_portrait(), {}, front=False)
                await until(lambda: "comfyui" in here.there())
                here.conductor.release(await here.chat())
                assert comfyui.executor.history[prompt_id]["status"]["status_str"] == "success"
                assert here.heard.events[-2:] == ["-comfyui", "+llm"]

    asyncio.run(story())


def test_a_comfyui_that_went_for_a_study_comes_with_its_next_prompt_and_not_before() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui) as here:
                await image(here, portrait())
                study = await here.conductor.acquire(["study"], wait_s=PATIENCE_S)
                assert comfyui.executor.held_bytes == 0
                here.conductor.release(study)
                here.conductor.let_go("study", "it ended")
                await until(lambda: not here.there())
                await here.conductor.look()
                assert here.there() == set()
                assert here.heard.events == ["+comfyui", "-comfyui", "+study", "-study"]

    asyncio.run(story())


def test_a_share_that_is_reserved_is_no_ones_and_prompts_pass_at_once() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui, comfyui="reserve", comfyui_vram=4 * GIB) as here:
                chat = await here.chat()
                assert here.conductor.snapshot().room.reserve == 4 * GIB
                await image(here, portrait())
                here.conductor.release(chat)
                assert here.heard.events == ["+llm"]

    asyncio.run(story())


def test_a_study_gets_the_card_empty_and_keeps_what_it_loads_for_itself() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=0.1, model_bytes=GIB) as comfyui:
            async with house(comfyui) as here:
                chat = await here.chat()
                body = {"who": "narthex tune", "eta_s": 60}
                url = here.url.removesuffix(PREFIX) + "/narthex/lease"
                async with here.session.post(url, json=body) as answer:
                    first = msgspec.json.decode(await answer.content.readline())
                    assert first == {"state": "waiting", "for": ["llm"]}
                    here.conductor.release(chat)
                    granted = msgspec.json.decode((await answer.content.read()).splitlines()[-1])
                assert here.there() == {"study"}
                assert not here.llm.loaded
                here.llm.loaded = True  # the study's own load
                await here.conductor.look()
                waits = asyncio.create_task(here.chat())
                await until(lambda: len(here.conductor.snapshot().waiting) == 1)
                await here.conductor.look()
                assert here.there() == {"study"}
                here.llm.loaded = False
                await here.session.post(f"{url}/release", json={"lease": granted["lease"]})
                here.conductor.release(await waits)
                assert "study" not in here.there()
                assert here.heard.events == ["+llm", "-llm", "+study", "-study", "+llm"]

    asyncio.run(story())
