"""How often an Ollama is asked what it has: often while requests come, seldom while it rests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from narthex.engines.llama_server import find_engine
from narthex.gateway.fleet import Fleet
from narthex.gateway.hands.llama import LlamaHand
from narthex.gateway.routing.catalogue import Catalogue
from narthex.policy import Policy


class Counted(Catalogue):
    """Counts the looks; each waits until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Policy(), with_ollama=False, journal=folder / "none.db")
        self.looks, self.free = 0, asyncio.Event()
        self.free.set()

    async def refresh(self) -> None:
        self.looks += 1
        await self.free.wait()


def fleet_of(catalogue: Catalogue, folder: Path) -> Fleet:
    return Fleet(Policy(), catalogue, LlamaHand(find_engine, folder, stall_s=1.0))


def test_a_request_looks_again_where_the_last_look_is_old_and_not_where_it_is_new(tmp_path: Path) -> None:
    async def run() -> None:
        catalogue = Counted(tmp_path)
        fleet = fleet_of(catalogue, tmp_path)
        await fleet.catch_up()
        assert catalogue.looks == 1
        await fleet.catch_up()
        assert catalogue.looks == 1
        await fleet.catch_up(0.0)
        assert catalogue.looks == 2
        await fleet.close()

    asyncio.run(run())


def test_a_look_that_hangs_holds_up_no_request_and_is_one_look_for_all(tmp_path: Path) -> None:
    async def run() -> None:
        catalogue = Counted(tmp_path)
        catalogue.free.clear()
        fleet = fleet_of(catalogue, tmp_path)
        await asyncio.wait_for(asyncio.gather(*(fleet.catch_up() for _ in range(20))), 30.0)
        assert catalogue.looks == 1
        await fleet.close()

    asyncio.run(run())
