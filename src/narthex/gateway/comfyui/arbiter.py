"""``Arbiter``: ComfyUI's share of the card. It holds places at the scheduler while ComfyUI has work.

A batch holds the card from its first prompt until ComfyUI's queue was seen empty twice and the linger time
passed: OpenWebUI sends the pictures of one turn one by one, and each gap would cost two swaps. Each prompt
asks for a place of its own, so that the scheduler decides whether it may join. Prompts that did not come
through the proxy, as from ComfyUI's own page on its own port, are seen in its queue and get a place like any
other: no load is begun on top of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Generic

from narthex.gateway.admission import Admission, Place
from narthex.gateway.ask import Rank
from narthex.gateway.comfyui.client import ComfyClient
from narthex.gateway.trouble import Trouble
from narthex.tenants.comfyui_api import ComfyError

KEY = "comfyui"
LOOK_S = 1.0  # between two looks at its queue while nothing is held
GAP_S = 0.5  # a client may send its next prompt right after the last one's end: empty twice, so far apart
SILENT_S = 60.0  # it says nothing for so long: whatever it does, nobody can wait for its end
ELSEWHERE_WAIT_S = 3600.0  # what runs already waits for its place, not for its work
ELSEWHERE = "ComfyUI's own page"


class Arbiter(Generic[Place]):
    """One ComfyUI's. All methods belong to the event loop's thread; :meth:`start` begins to look."""

    def __init__(
        self,
        admission: Admission[Place],
        comfyui: ComfyClient,
        *,
        wait_s: float,
        linger_s: float,
        look_s: float = LOOK_S,
        gap_s: float = GAP_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._admission, self._comfyui = admission, comfyui
        self.wait_s, self.linger_s = wait_s, linger_s  # a reload of the policy may change them
        self._look_s, self._gap_s, self._silent_s = look_s, gap_s, silent_s
        self._batch: list[Place] = []
        self._sending = 0  # prompts with a place that ComfyUI has not answered yet
        self._empty_since: float | None = None
        self._silent_since: float | None = None
        self._elsewhere: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._nudge = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def holds(self) -> bool:
        """Whether the card is ComfyUI's now."""
        return bool(self._batch) or self._sending > 0

    def start(self) -> None:
        """Look at ComfyUI's queue from now on."""
        self._watching = self._loop.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, and give everything back."""
        tasks = [task for task in (self._watching, self._elsewhere) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_back()

    async def enter(self, client: str) -> Place:
        """A place for one prompt. Raises Trouble; cancelling it leaves the queue. Then :meth:`sent`."""
        place = await self._admission.acquire([KEY], rank=Rank.IMAGE, client=client, wait_s=self.wait_s)
        self._sending += 1
        return place

    def sent(self, place: Place, *, accepted: bool) -> None:
        """ComfyUI has answered. One that it did not take gives its place back at once."""
        self._sending -= 1
        if not accepted:
            self._admission.release(place)
            return
        self._batch.append(place)
        self._empty_since = None
        self._nudge.set()

    # its queue

    async def _watch(self) -> None:
        while True:
            self._nudge.clear()
            try:
                await self._look()
            except Exception:  # whatever it was, who has the card must not have it for ever
                self._unheard(lost=False)
            wait_s = self._gap_s / 2 if self._batch else self._look_s
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), wait_s)

    async def _look(self) -> None:
        sent_before = len(self._batch) + self._sending
        try:
            remaining = await self._comfyui.remaining()
        except ComfyError as error:
            self._unheard(lost=error.lost)
            return
        self._silent_since = None
        if remaining:
            self._empty_since = None
            self._seen_at_work()
        elif len(self._batch) + self._sending == sent_before:  # else the answer is older than a prompt
            self._seen_idle()

    def _seen_at_work(self) -> None:
        """Work that nobody has a place for came another way."""
        if not self.holds and self._elsewhere is None:
            self._admission.doubt()
            self._elsewhere = self._loop.create_task(self._join())

    def _seen_idle(self) -> None:
        self._drop_elsewhere()
        if not self._batch or self._sending:
            return
        now = self._loop.time()
        if self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since >= max(self._gap_s, self.linger_s):
            self._give_back()

    def _unheard(self, *, lost: bool) -> None:
        """No answer: it is gone, or only busy with itself."""
        now = self._loop.time()
        if self._silent_since is None:
            self._silent_since = now
        if lost or now - self._silent_since >= self._silent_s:
            self._drop_elsewhere()
            if self._batch:
                self._admission.doubt()
            self._give_back()

    def _give_back(self) -> None:
        batch, self._batch, self._empty_since = self._batch, [], None
        for place in batch:
            self._admission.release(place)

    # prompts that came another way

    async def _join(self) -> None:
        try:
            with contextlib.suppress(Trouble):  # full, or it took too long; the next look tries again
                place = await self._admission.acquire(
                    [KEY], rank=Rank.IMAGE, client=ELSEWHERE, wait_s=ELSEWHERE_WAIT_S
                )
                self._batch.append(place)
                self._nudge.set()
        finally:
            self._elsewhere = None

    def _drop_elsewhere(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.cancel()
