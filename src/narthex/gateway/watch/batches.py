"""``Batches``: things that are put aside on the event loop and written in a thread, so that no disk and no
full pipe holds up a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

MOST = 100_000  # so many may wait for a disk that hangs; what comes then is counted and left out
END_S = 5.0  # at the end: time for the last batch

_Item = TypeVar("_Item")


class Batches(Generic[_Item]):
    """``write`` gets a batch and how many were left out before it. It runs in a thread and raises nothing;
    what it returns is given to ``say`` on the event loop, if it is not empty."""

    def __init__(
        self,
        write: Callable[[list[_Item], int], str],
        *,
        pause_s: float,
        say: Callable[[str], None] = lambda text: None,
        most: int = MOST,
    ) -> None:
        self._write, self._pause_s, self._say, self._most = write, pause_s, say, most
        self._items: list[_Item] = []
        self._lost = 0
        self._come, self._ended = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, item: _Item) -> None:
        """Put one aside. Costs next to nothing."""
        if len(self._items) >= self._most:
            self._lost += 1
            return
        self._items.append(item)
        if not self._come.is_set():
            self._come.set()
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what is left; gives up after a while where the disk hangs."""
        self._ended.set()
        self._come.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=END_S)
            self._task.cancel()

    async def _run(self) -> None:
        while not (self._ended.is_set() and not self._items):
            await self._come.wait()
            if self._pause_s and not self._ended.is_set():
                await self._pause()
            batch, self._items = self._items, []
            lost, self._lost = self._lost, 0
            self._come.clear()
            if self._ended.is_set():
                self._come.set()
            if batch:
                try:
                    remark = await asyncio.to_thread(self._write, batch, lost)
                except Exception as error:  # what comes next is written all the same
                    remark = f"{len(batch)} rows could not be written: {type(error).__name__}: {error}."
                if remark:
                    self._say(remark)

    async def _pause(self) -> None:
        """Until the next batch is due, or the end comes."""
        try:
            await asyncio.wait_for(self._ended.wait(), self._pause_s)
        except TimeoutError:
            return
