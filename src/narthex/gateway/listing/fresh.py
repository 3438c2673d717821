"""``Fresh``: a value that is looked up anew when somebody asks, and never waited for longer than a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

NEW_S = 1.0  # younger than that, it is taken as it is
OLD_S = 5.0  # older than that, the new one is waited for, if it comes at once
MOMENT_S = 0.25  # how long «at once» is; an Ollama that is well answers a list in a few milliseconds


class Fresh:
    """Keeps one look at the engines young. A look that hangs or fails costs one caller a moment, once; those
    after it get what was known last at once, until a look succeeds again."""

    def __init__(self, look: Callable[[], Awaitable[bool]], *, new_s: float = NEW_S) -> None:
        """``look`` takes what is there now, says whether it was told, and ends by itself."""
        self._look, self._new_s = look, new_s
        self._doubts = 0
        self._at: float | None = None  # of the last good look
        self._tried_at: float | None = None  # of the last one, good or not
        self._task: asyncio.Task[None] | None = None
        self._patient = True

    @property
    def age_s(self) -> float | None:
        """Seconds since the last good look; None where there was none."""
        return None if self._at is None else asyncio.get_running_loop().time() - self._at

    def doubt(self) -> None:
        """Something was loaded or unloaded: what is known is old now."""
        self._at = self._tried_at = None
        self._doubts += 1

    async def please(self) -> None:
        """Come back at once where what is known is young, else after a moment at most."""
        age, now = self.age_s, asyncio.get_running_loop().time()
        if age is not None and age < self._new_s:
            return
        if not self._is_looking() and self._tried_at is not None and now - self._tried_at < self._new_s:
            return  # one that failed is not asked at every call
        task = self._begin()
        if self._patient and (age is None or age > OLD_S):
            done, _ = await asyncio.wait((task,), timeout=MOMENT_S)
            self._patient = bool(done)

    async def close(self) -> None:
        """End a look that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _is_looking(self) -> bool:
        return self._task is not None and not self._task.done()

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    async def _run(self) -> None:
        doubts = self._doubts
        told, now = await self._look(), asyncio.get_running_loop().time()
        if doubts != self._doubts:
            return  # it may have seen what was before
        self._tried_at = now
        if told:
            self._at, self._patient = now, True
