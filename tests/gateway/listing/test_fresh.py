"""How often the engines are looked at, and how long anybody waits for that."""

from __future__ import annotations

import asyncio

from narthex.gateway.listing.fresh import Fresh

LONG_S = 3600.0


class Look:
    """Counts; answers what it is told to, once it may."""

    def __init__(self, *, told: bool = True) -> None:
        self.told, self.count = told, 0
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self) -> bool:
        self.count += 1
        await self.may.wait()
        return self.told


def test_a_young_look_serves_everybody() -> None:
    async def run() -> None:
        look = Look()
        fresh = Fresh(look, new_s=LONG_S)
        for _ in range(10):
            await fresh.please()
        assert look.count == 1

    asyncio.run(run())


def test_an_engine_that_is_gone_is_not_asked_at_every_call() -> None:
    async def run() -> None:
        look = Look(told=False)
        fresh = Fresh(look, new_s=LONG_S)
        for _ in range(10):
            await fresh.please()
        assert (look.count, fresh.age_s) == (1, None)

    asyncio.run(run())


def test_many_callers_at_once_share_one_look() -> None:
    async def run() -> None:
        look = Look()
        fresh = Fresh(look, new_s=LONG_S)
        await asyncio.gather(*(fresh.please() for _ in range(20)))
        assert look.count == 1

    asyncio.run(run())


def test_after_a_doubt_it_is_looked_at_anew() -> None:
    async def run() -> None:
        look = Look()
        fresh = Fresh(look, new_s=LONG_S)
        await fresh.please()
        fresh.doubt()
        await fresh.please()
        assert look.count == 2

    asyncio.run(run())


def test_a_look_that_began_before_the_change_is_no_news() -> None:
    async def run() -> None:
        look = Look()
        look.may.clear()
        fresh = Fresh(look, new_s=LONG_S)
        waiting = asyncio.create_task(fresh.please())
        while not look.count:
            await asyncio.sleep(0)
        fresh.doubt()
        look.may.set()
        await waiting
        assert fresh.age_s is None
        await fresh.please()
        assert look.count == 2

    asyncio.run(run())


def test_a_look_that_hangs_ends_with_the_gateway() -> None:
    async def run() -> None:
        look = Look()
        look.may.clear()
        fresh = Fresh(look, new_s=LONG_S)
        await fresh.please()
        await asyncio.wait_for(fresh.close(), 10)

    asyncio.run(run())
