"""The card for a study alone: given once everything else ended, and free again when the study is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest

from narthex.gateway.lease import OVERDUE_S, PATH, StudyLease
from narthex.gateway.trouble import Trouble
from narthex.testing.comfyui.card import OneAtATime, Place
from narthex.testing.gateway_loop import GatewayLoop

PATIENCE_S = 30.0


class Served:
    """A lease behind a server, and its card."""

    def __init__(self, **more: Any) -> None:
        self.card = OneAtATime()
        self.lease: StudyLease[Place]
        self._more = more
        self.loop = GatewayLoop(self._routes)

    def _routes(self) -> Any:
        usual = {"busy": lambda: [each.client for each in self.card.holders], "ollama": "http://there:11434"}
        self.lease = StudyLease(self.card, **{**usual, **self._more})
        return self.lease.routes()

    def chat(self) -> Place:
        return self.loop.run(lambda: self.card.acquire(["llm"], client="qwen3:30b", wait_s=PATIENCE_S))

    def done(self, place: Place) -> None:
        async def release() -> None:
            self.card.release(place)

        self.loop.run(release)

    def until(self, *events: str) -> None:
        async def wait() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while self.card.events != list(events):
                    await asyncio.sleep(0.01)

        self.loop.run(wait)


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    with found.loop:
        yield found


async def post(served: Served, path: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(served.loop.url + path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


def ask(served: Served, path: str, body: Any) -> tuple[int, Any]:
    return asyncio.run(post(served, path, body))


def take(served: Served, who: str = "narthex tune", **more: Any) -> dict[str, Any]:
    """The last line of the answer."""

    async def story() -> dict[str, Any]:
        body = {"who": who, **more}
        async with aiohttp.ClientSession() as session, session.post(served.loop.url + PATH, json=body) as got:
            assert got.status == 200
            found: dict[str, Any] = msgspec.json.decode((await got.read()).splitlines()[-1])
            return found

    return asyncio.run(story())


def state(served: Served) -> dict[str, Any]:
    async def told() -> dict[str, Any]:
        return served.lease.state()

    return served.loop.run(told)


def check(served: Served, wait_s: float) -> None:
    async def checked() -> None:
        served.lease.check(wait_s)

    served.loop.run(checked)


def test_a_free_card_is_given_at_once_and_told_to_all(served: Served) -> None:
    found = take(served, eta_s=600)
    assert (found["state"], found["ttl_s"]) == ("granted", 15)
    told = state(served)
    assert (told["held"], told["who"]) == (True, "narthex tune")
    assert 0 < told["eta_s"] <= 600
    assert told["ollama"] == "http://there:11434"
    assert told["narthex"]


def test_a_study_waits_for_answers_under_way_and_is_told_for_which() -> None:
    served = Served(beat_s=0.05)

    async def story() -> None:
        chat = served.chat()
        async with (
            aiohttp.ClientSession() as session,
            session.post(served.loop.url + PATH, json={"who": "narthex tune"}) as answer,
        ):
            first = msgspec.json.decode(await answer.content.readline())
            assert first == {"state": "waiting", "for": ["qwen3:30b"]}
            await answer.content.readline()
            served.done(chat)
            rest = (await answer.content.read()).splitlines()
            assert msgspec.json.decode(rest[-1])["state"] == "granted"

    with served.loop:
        asyncio.run(story())
        assert served.card.events == ["+llm", "-llm", "+study"]


def test_the_end_of_a_study_frees_the_card(served: Served) -> None:
    lease = take(served)["lease"]
    assert ask(served, f"{PATH}/release", {"lease": "another"})[0] == 200
    assert state(served)["held"]
    assert ask(served, f"{PATH}/release", {"lease": lease}) == (200, {"state": "free"})
    assert ask(served, f"{PATH}/release", {"lease": lease})[0] == 200
    assert served.card.events == ["+study", "-study"]
    assert served.card.let == ["study"]
    assert not state(served)["held"]


def test_a_study_that_says_nothing_more_loses_the_card() -> None:
    served = Served(ttl_s=0.05)
    with served.loop:
        lease = take(served)["lease"]
        served.until("+study", "-study")
        status, answer = ask(served, f"{PATH}/renew", {"lease": lease})
        assert (status, answer["error"]["type"]) == (410, "lease_ended")


def test_a_study_that_renews_keeps_the_card_and_tells_its_end_anew() -> None:
    served = Served(ttl_s=2.0)
    with served.loop:
        lease = take(served)["lease"]
        assert state(served)["eta_s"] is None
        for _ in range(5):
            assert ask(served, f"{PATH}/renew", {"lease": lease, "eta_s": 900})[0] == 200
            assert state(served)["eta_s"] > 800


def test_a_study_that_leaves_while_it_waits_leaves_the_queue(served: Served) -> None:
    chat = served.chat()

    async def story() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(served.loop.url + PATH, json={"who": "narthex tune"}) as answer,
        ):
            await answer.content.readline()
            answer.close()

    asyncio.run(story())

    async def nobody_waits() -> None:
        async with asyncio.timeout(PATIENCE_S):
            while served.card.waiting:
                await asyncio.sleep(0.01)

    served.loop.run(nobody_waits)
    served.done(chat)
    assert served.card.events == ["+llm", "-llm"]


def test_a_study_that_waits_too_long_is_refused_in_words(served: Served) -> None:
    served.chat()
    found = take(served, wait_s=0.1)
    assert (found["state"], found["cause"]) == ("refused", "busy")
    assert "0.1 s" in found["error"]


def test_who_can_wait_for_the_study_waits_and_who_cannot_hears_its_end(served: Served) -> None:
    check(served, 0)
    take(served, who="narthex soak", eta_s=300)
    check(served, 600)
    with pytest.raises(Trouble) as trouble:
        check(served, 60)
    assert (trouble.value.status, trouble.value.cause) == (503, "study_running")
    assert "«narthex soak» has the card for about 5 min 00 s more" in trouble.value.message
    assert trouble.value.retry_after_s == pytest.approx(300, abs=PATIENCE_S)


def test_a_study_without_an_end_in_sight_is_waited_for_by_nobody(served: Served) -> None:
    take(served)
    with pytest.raises(Trouble, match="for a time that it does not know yet"):
        check(served, 1e9)


def test_an_overdue_study_ends_soon(served: Served) -> None:
    take(served, eta_s=0)
    assert state(served)["eta_s"] == OVERDUE_S


@pytest.mark.parametrize("figures", [{"wait_s": -1.0}, {"wait_s": 1e308}, {"eta_s": 1e308}, {"eta_s": -5.0}])
def test_figures_that_make_no_sense_hold_up_nobody(served: Served, figures: dict[str, float]) -> None:
    found = take(served, who="a\0\x1b[31m" + 999 * "x", **figures)
    assert found["state"] == "granted"
    assert state(served)["who"] == "a[31m" + 59 * "x"


@pytest.mark.parametrize("body", [{}, {"who": 3}, [], {"who": "x", "eta_s": "soon"}])
def test_a_body_that_is_none_is_refused(served: Served, body: Any) -> None:
    status, answer = ask(served, PATH, body)
    assert (status, answer["error"]["type"]) == (400, "bad_request")
