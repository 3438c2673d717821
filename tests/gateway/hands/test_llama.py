"""The hand starts real llama-servers, and sees them die."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from narthex.engines._base import Engine
from narthex.errors import EngineNotFound
from narthex.gateway.hands._base import Progress
from narthex.gateway.hands.llama import LlamaHand
from narthex.gateway.hands.llama_setting import knobs_of
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.host.processes import runs
from narthex.units import MIB

from .conftest import llama_offer, until

pytestmark = pytest.mark.engine


def silent(progress: Progress) -> None:
    """Nobody wants to know."""


async def trouble_of(load: Coroutine[Any, Any, object]) -> Trouble:
    with pytest.raises(Trouble) as caught:
        await load
    return caught.value


def children() -> set[int]:
    """Processes below this one that are llama-servers."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            words = (entry / "cmdline").read_bytes().split(b"\0") if (entry / "cmdline").exists() else []
            if words and words[0].endswith(b"llama-server"):
                found.add(int(entry.name))
    return found


def test_a_loaded_offer_answers_tells_what_it_holds_and_goes(
    engine: Engine, small: Offer, tmp_path: Path
) -> None:
    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path, stall_s=60)
        stages: list[Progress] = []
        held = await hand.load(small, stages.append)
        assert held is not None
        assert held > 200 * MIB
        assert await hand.load(small, silent) == held, "it is there already"
        upstream = hand.upstream(small)
        assert (upstream.dialect, upstream.model) == ("llama-server", "")
        with urllib.request.urlopen(f"{upstream.url}/health") as answer:
            assert answer.status == 200
        assert [row.key for row in await hand.look()] == ["small"]
        assert hand.told().keys() == hand.pids().keys() == {"small"}
        (pid,) = hand.pids()["small"]
        await hand.unload(small)
        assert not runs(pid)
        assert await hand.look() == ()
        assert (await trouble_of(_upstream(hand, small))).cause == "not_loaded"
        await asyncio.sleep(0)
        assert {stage.stage for stage in stages} == {"loading"}
        await hand.close()

    asyncio.run(scene())


async def _upstream(hand: LlamaHand, offer: Offer) -> object:
    return hand.upstream(offer)


def test_two_offers_live_side_by_side_until_the_hand_closes(
    engine: Engine, small: Offer, gemma: Path, tmp_path: Path
) -> None:
    async def scene() -> set[int]:
        hand = LlamaHand(lambda: engine, tmp_path, stall_s=60)
        other = llama_offer("other", gemma, num_ctx=1024)
        await asyncio.gather(hand.load(small, silent), hand.load(other, silent))
        assert {row.key for row in await hand.look()} == {"small", "other"}
        pids = {pid for found in hand.pids().values() for pid in found}
        assert len(pids) == 2
        await hand.close()
        return pids

    assert not any(runs(pid) for pid in asyncio.run(scene()))


def test_a_load_goes_on_when_who_asked_for_it_leaves(engine: Engine, small: Offer, tmp_path: Path) -> None:
    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path, stall_s=60)
        first = asyncio.create_task(hand.load(small, silent))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await hand.load(small, silent), "the second joins the first one's load"
        assert len(list(tmp_path.glob("*.log"))) == 1
        await hand.close()

    asyncio.run(scene())


def test_an_end_in_the_middle_of_a_load_leaves_no_process(
    engine: Engine, small: Offer, tmp_path: Path
) -> None:
    before = children()

    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path, stall_s=60)
        load = asyncio.create_task(hand.load(small, silent))
        await until(lambda: list(tmp_path.glob("*.log")))
        await hand.close()
        assert (await trouble_of(load_of(load))).cause == "load_called_off"

    asyncio.run(scene())
    assert children() <= before


async def load_of(task: asyncio.Task[int | None]) -> object:
    return await task


def test_a_cache_that_does_not_fit_is_told_with_the_figures(
    cramped: Engine, gemma: Path, tmp_path: Path
) -> None:
    async def scene() -> None:
        hand = LlamaHand(cramped, tmp_path / "logs", stall_s=60)
        trouble = await trouble_of(hand.load(llama_offer("huge", gemma, num_ctx=200_000), silent))
        assert trouble.status == 503
        assert trouble.lasting
        assert trouble.figures["requested_bytes"] > 100 * MIB
        assert trouble.figures["num_ctx"] == 200_000
        assert "«huge»" in trouble.message
        assert "free before" in trouble.message
        assert "context" in trouble.remedy
        assert trouble.evidence
        assert await hand.look() == ()
        await hand.close()

    asyncio.run(scene())


def test_a_file_that_was_cut_short_is_told_as_damaged(engine: Engine, gemma: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gemma.read_bytes()[:50_000_000])

    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path / "logs", stall_s=60)
        trouble = await trouble_of(hand.load(llama_offer("cut", cut), silent))
        assert trouble.cause == "gguf_invalid_or_corrupt"
        assert trouble.lasting
        gone = await trouble_of(hand.load(llama_offer("gone", tmp_path / "gone.gguf"), silent))
        assert (gone.status, gone.cause) == (404, "model_not_found")
        await hand.close()

    asyncio.run(scene())


def test_a_killed_server_is_missed_explained_and_started_again(
    engine: Engine, small: Offer, tmp_path: Path
) -> None:
    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path, stall_s=60)
        await hand.load(small, silent)
        (pid,) = hand.pids()["small"]
        os.kill(pid, signal.SIGKILL)
        trouble = await hand.explain(small, "the connection broke off", None)
        assert (trouble.status, trouble.cause) == (502, "runner_died")
        assert "SIGKILL" in trouble.message
        assert not trouble.lasting
        assert await hand.look() == ()
        await hand.load(small, silent)
        assert [row.key for row in await hand.look()] == ["small"]
        await hand.close()

    asyncio.run(scene())


def test_a_server_that_hangs_is_told_from_one_that_died(engine: Engine, small: Offer, tmp_path: Path) -> None:
    async def scene() -> None:
        hand = LlamaHand(engine, tmp_path, stall_s=60)
        await hand.load(small, silent)
        (pid,) = hand.pids()["small"]
        os.kill(pid, signal.SIGSTOP)
        trouble = await hand.explain(small, "no byte came for 120 s", None)
        assert trouble.status == 504
        os.kill(pid, signal.SIGCONT)
        lives = await hand.explain(small, "the connection broke off", None)
        assert lives.cause == "connection_lost"
        await hand.close()

    asyncio.run(scene())


def test_without_an_engine_the_way_to_one_is_told(small: Offer, tmp_path: Path) -> None:
    def none() -> Engine:
        raise EngineNotFound("No llama-server that runs was found.", hint="Install llama.cpp.")

    async def scene() -> None:
        hand = LlamaHand(none, tmp_path, stall_s=60)
        trouble = await trouble_of(hand.load(small, silent))
        assert (trouble.status, trouble.cause, trouble.remedy) == (503, "no_engine", "Install llama.cpp.")
        await hand.close()

    asyncio.run(scene())


def test_an_offer_without_knobs_gets_its_context_and_slots() -> None:
    offer = Offer(
        key="k", backend="llama-server", name="k", model="/m", twin="k", num_ctx=8192, slots=4,
        capabilities=("embedding",),
    )  # fmt: skip
    knobs = knobs_of(offer)
    assert (knobs.num_ctx, knobs.parallel, knobs.ubatch, knobs.gpu_layers) == (8192, 4, 2048, None)
