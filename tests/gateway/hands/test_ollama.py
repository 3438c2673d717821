"""The hand drives a fake Ollama: a real server before a real llama-server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.engines.ollama.discovery import find_server
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.records import Resident
from narthex.gateway.hands._base import Progress, Seen
from narthex.gateway.hands.ollama import OllamaHand
from narthex.gateway.hands.ollama_residents import Ours, key_of
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.testing.fake_ollama import FakeOllama
from narthex.units import MIB

from .conftest import until

pytestmark = pytest.mark.engine
Fakes = Callable[..., FakeOllama]


def silent(progress: Progress) -> None:
    """Nobody wants to know."""


def offer(key: str, num_ctx: int = 512, *, model: str = "gemma:latest") -> Offer:
    options = {"num_ctx": num_ctx, "num_thread": 2}
    return Offer(
        key=key, backend="ollama", name=key, model=model, twin="gemma", options=options, num_ctx=num_ctx
    )


def hand_of(fake: FakeOllama, **options: Any) -> OllamaHand:
    server = find_server(fake.url)
    return OllamaHand(
        fake.url, **{"server": server, "log": open_log(server), "stall_s": 60, "keep_alive": -1, **options}
    )


async def trouble_of(load: Coroutine[Any, Any, object]) -> Trouble:
    with pytest.raises(Trouble) as caught:
        await load
    return caught.value


def test_a_model_is_loaded_with_its_options_seen_and_let_go(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        small, large = offer("small"), offer("large", 1024)
        hand.know([small, large])
        stages: list[Progress] = []
        held = await hand.load(small, stages.append)
        assert held is not None
        assert held > 200 * MIB
        assert stages
        assert await hand.look() == (Seen(key="small", held=held, forever=True),)
        assert list(hand.pids()["small"]) == fake.runner_pids()
        assert hand.upstream(small).model == "gemma:latest"
        await hand.load(large, silent)
        assert [row.key for row in await hand.look()] == ["large"], "another context is another offer"
        await hand.unload(large)
        assert fake.runner_pids() == []
        assert await hand.look() == ()
        assert hand.told() == {}
        await hand.close()

    asyncio.run(scene())


def test_a_load_goes_on_when_who_asked_for_it_leaves(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        first = asyncio.create_task(hand.load(offer("small"), silent))
        await until(fake.runner_pids)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        (pid,) = fake.runner_pids()
        await hand.load(offer("small"), silent)
        assert fake.runner_pids() == [pid]
        await hand.close()

    asyncio.run(scene())


def test_a_runner_that_stands_still_while_it_loads_is_a_wedged_load(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake, stall_s=1.0)
        load = asyncio.create_task(hand.load(offer("large", 32_768), silent))
        await until(fake.runner_pids)
        os.kill(fake.runner_pids()[0], signal.SIGSTOP)
        with pytest.raises(Trouble) as caught:
            await load
        trouble = caught.value
        assert (trouble.status, trouble.cause, trouble.lasting) == (504, "model_load_hangs", True)
        assert "answers its lists" in trouble.message
        assert "restart" in trouble.remedy
        await until(lambda: not fake.runner_pids())
        await hand.close()

    asyncio.run(scene())


def test_an_ollama_elsewhere_is_given_its_own_five_minutes_first(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = OllamaHand(fake.url, server=None, stall_s=0.05, blind_s=60.0)
        assert await hand.load(offer("small"), silent) is not None or not hand.here
        assert [row.key for row in await hand.look()] == ["small"]
        await hand.unload(offer("small"))
        assert await hand.look() == ()
        await hand.close()

    asyncio.run(scene())


def test_a_killed_runner_is_missed_though_ollama_lists_it(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        await hand.load(offer("small"), silent)
        assert fake.kill_runner() == 1
        trouble = await hand.explain(offer("small"), "the connection broke off", None)
        assert trouble.status in (502, 503)
        assert trouble.cause in ("runner_died", "host_oom_kill")
        assert not trouble.lasting
        assert await hand.look() == ()
        await hand.close()

    asyncio.run(scene())


def test_a_server_that_is_down_is_told_with_its_address(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        await hand.load(offer("small"), silent)
        fake.kill()
        loads = await trouble_of(hand.load(offer("large", 1024), silent))
        looks = await trouble_of(hand.look())
        explains = await hand.explain(offer("small"), "the connection broke off", None)
        for trouble in (loads, looks, explains):
            assert (trouble.status, trouble.cause) == (503, "ollama_unreachable")
            assert fake.url in trouble.message
            assert "Start it" in trouble.remedy
        await hand.unload(offer("small"))  # its runner went with the server: nothing is held
        await hand.close()

    asyncio.run(scene())


def test_a_server_that_was_started_anew_is_found_again(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        small = msgspec.structs.replace(offer("small"), capabilities=("embedding",))
        await hand.load(small, silent)
        await asyncio.to_thread(fake.restart)
        assert await hand.look() == ()
        await hand.load(small, silent)
        assert [row.key for row in await hand.look()] == ["small"]
        assert list(hand.pids()["small"]) == fake.runner_pids()
        await hand.close()

    asyncio.run(scene())


def test_a_resident_of_somebody_else_is_seen_as_what_it_is(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma})

    async def scene() -> None:
        hand = hand_of(fake)
        hand.know([offer("small")])
        foreign = offer("theirs", 2048)
        other = hand_of(fake, keep_alive=300)
        await other.load(foreign, silent)
        (row,) = await hand.look()
        assert (row.key, row.forever) == ("ollama:gemma:latest", False)
        theirs = hand.foreign(row.key)
        assert theirs is not None
        assert (theirs.twin, theirs.num_ctx) == ("gemma", 2048)
        await hand.unload(theirs)
        assert await hand.look() == ()
        await other.close()
        await hand.close()

    asyncio.run(scene())


def test_a_model_that_is_not_there_is_a_404(fake_ollama: Fakes) -> None:
    fake = fake_ollama({})

    async def scene() -> None:
        hand = hand_of(fake)
        trouble = await trouble_of(hand.load(offer("nope", model="nope:1b"), silent))
        assert (trouble.status, trouble.cause) == (404, "model_not_found")
        assert "ollama pull nope:1b" in trouble.remedy
        await hand.close()

    asyncio.run(scene())


def test_a_load_that_runs_out_of_memory_is_told_with_the_figures(fake_ollama: Fakes, gemma: Path) -> None:
    fake = fake_ollama({"gemma": gemma}, limit_mib=450)

    async def scene() -> None:
        hand = hand_of(fake)
        trouble = await trouble_of(hand.load(offer("huge", 32_768), silent))
        assert trouble.status == 503
        assert trouble.lasting
        assert "«huge»" in trouble.message
        assert trouble.figures["num_ctx"] == 32_768
        assert trouble.evidence
        await hand.close()

    asyncio.run(scene())


def test_an_offer_is_known_by_name_digest_and_context() -> None:
    resident = Resident(name="gemma:latest", digest="ab" * 32, context_length=4096)
    small, large = offer("small", 4096), offer("large", 8192)
    assert key_of(resident, [large, small], {}) == "small"
    assert key_of(resident, [large], {}) == "ollama:gemma:latest"
    # Ollama cuts a context to what the model was trained for: what a load became is remembered.
    assert key_of(resident, [large], {"large": Ours("gemma:latest", 4096)}) == "large"
    bare = Offer(key="bare", backend="ollama", name="gemma", model="gemma", twin="gemma")
    assert key_of(resident, [bare], {}) == "bare", "it takes what the server gives it"
    digest = Offer(
        key="d", backend="ollama", name="d", model="other", twin="d", digest="ab" * 32, num_ctx=4096
    )
    assert key_of(resident, [digest], {}) == "d"
