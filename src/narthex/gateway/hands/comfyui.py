"""``ComfyHand``: ComfyUI as a tenant of the card: it is made room for, and asked to let its models go.

ComfyUI loads by itself when a prompt runs, and keeps its models for ever. So a load only makes sure that it
answers, and an unload is ``/free``, whose answer means nothing: what counts is the card's own word for its
processes. A running prompt is a person's work and is never interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from narthex.gateway.comfyui.arbiter import KEY, SILENT_S
from narthex.gateway.comfyui.client import ComfyClient, unreachable
from narthex.gateway.hands._base import Seen, Told
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble
from narthex.tenants.comfyui_api import ComfyError
from narthex.units import MIB, sentence

SETTLE_S = 10.0  # after /free the driver's figure falls within this time, or it does not fall at all
_POLL_S = 0.2
_SLACK = 64 * MIB  # figures of the same memory differ by that much, and nobody unloads for less
OWN_FIGURES = (
    "VRAM of ComfyUI: NVML does not show its processes, so its own figures count; they lack its CUDA context "
    "(some hundred MiB) and, with DynamicVRAM, its weights."
)


class ComfyHand:
    """``by_driver`` reads the VRAM of its processes, None where the driver does not show them; it may take a
    while and is called in a thread. ``vram``: the policy's figure of its need. ``grew`` hears of a new peak.
    """

    def __init__(
        self,
        comfyui: ComfyClient,
        by_driver: Callable[[], int | None],
        *,
        vram: int | None = None,
        keep_alive_s: float = 1800.0,
        grew: Callable[[Tenant, Offer], None] | None = None,
        settle_s: float = SETTLE_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._comfyui, self._by_driver = comfyui, by_driver
        self._vram, self._keep_alive_s = vram, keep_alive_s
        self._grew, self._settle_s, self._silent_s = grew, settle_s, silent_s
        self._peak: int | None = None  # of jobs that came to their end
        self._climb = 0  # of the job that runs
        self._rest: int | None = None  # what it holds after /free: its CUDA context
        self._device = ""  # as it says: "cuda", "cpu"; "" before it was asked
        self._loaded = False
        self.gaps: tuple[str, ...] = ()

    # what it is to the scheduler

    @property
    def need_bytes(self) -> int | None:
        """VRAM that an image needs: the policy's figure, else the most that was seen; None before that."""
        return self._vram if self._vram is not None else self._peak

    def tenant(self) -> Tenant:
        """It takes what there is where that is less than it would like, as its own memory rules have it."""
        return Tenant(
            key=KEY,
            name="ComfyUI",
            need=self.need_bytes,
            elastic=True,
            keep_alive_s=self._keep_alive_s,
            comes_back=False,  # it loads by itself, when there is a prompt
        )

    def offer(self) -> Offer:
        """Its entry among what can be on the card."""
        source = "observed" if self._peak is not None else "unknown"
        return Offer(
            key=KEY,
            backend="comfyui",
            name="ComfyUI",
            model="",
            twin="",
            need_bytes=self.need_bytes,
            need_source="policy" if self._vram is not None else source,
            elastic=True,
        )

    def claim(self, held: int | None) -> int | None:
        """What it is counted with while it has its place: as much as an image needs, since the next one takes
        that without asking again, and at least what it holds. None where its need is not known yet."""
        need = self.need_bytes
        return None if need is None else max(need, held or 0)

    async def withheld_bytes(self) -> int:
        """What is to stay free for it beyond what it holds now, where the policy keeps a share for it."""
        need = self.need_bytes
        if need is None:
            return 0
        try:
            return max(0, need - (await self._held() or 0))
        except ComfyError:  # it is not there, and may come at any time
            return need

    # Hand

    async def load(self, offer: Offer, told: Told) -> int | None:
        """Make sure that it answers. Raises Trouble."""
        try:
            await self._know()
            held = await self._held()
        except ComfyError as error:
            raise unreachable(self._comfyui.url, error.words) from error
        self._loaded = True
        return self.claim(held)

    async def unload(self, offer: Offer) -> None:
        """Wait for the end of what runs, free its models, and wait until the card says so. A ComfyUI that is
        gone, or says nothing, holds what the card says."""
        try:
            await self._idle()
            before = await self._held()
            if before is None or before > (self._rest or 0) + _SLACK:
                await self._free(before)
        except ComfyError as error:
            if not error.lost:
                raise unreachable(self._comfyui.url, error.words) from error
        finally:
            self._loaded = False

    def upstream(self, offer: Offer) -> Upstream:
        """Where the proxy sends its requests."""
        return Upstream(url=self._comfyui.url, dialect="comfyui", model="")

    async def look(self) -> tuple[Seen, ...]:
        """There once its place was made, or while it works, or holds more than it can't let go."""
        try:
            await self._know()
            busy = await self._comfyui.remaining() > 0
            held = await self._held()
        except ComfyError as error:
            if error.lost:
                self._loaded, self._rest, self._device = False, None, ""
                return ()
            raise unreachable(self._comfyui.url, error.words) from error
        self._learn(held or 0, busy)
        full = held is not None and held > (self._rest or 0) + _SLACK
        there = self._loaded or busy or full
        return (Seen(key=KEY, held=self.claim(held), busy=busy),) if there else ()

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        """ComfyUI's own answers pass as they are; this is for none at all."""
        return Trouble(status or 502, "comfyui_job_failed", sentence(f"ComfyUI: {words}"))

    async def close(self) -> None:
        """Nothing here was started."""

    # memory

    async def _idle(self) -> None:
        """Until nothing runs or waits. While it loads a model's file it may say nothing for a while."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            try:
                if not await self._comfyui.remaining():
                    return
                heard = loop.time()
            except ComfyError as error:
                if error.lost or loop.time() - heard > self._silent_s:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _free(self, before: int | None) -> None:
        """Its weights go to main memory, unless that has no room for them."""
        stats = await self._comfyui.stats()
        short = stats.ram_free_bytes is not None and before is not None and before > stats.ram_free_bytes
        await self._comfyui.free(forget=short)
        after = await self._settled(before)
        if after is not None:
            self._rest = after

    async def _settled(self, before: int | None) -> int | None:
        """What it holds once the figure fell and stays, or did not fall within the time."""
        loop = asyncio.get_running_loop()
        until, last = loop.time() + self._settle_s, before
        while loop.time() < until:
            await asyncio.sleep(_POLL_S)
            held = await self._held()
            fell = held is not None and before is not None and held < before - _SLACK
            if held == 0 or (fell and held == last):
                return held
            last = held
        return last

    async def _know(self) -> None:
        """One that computes on the CPU needs nothing of the card."""
        if not self._device:
            self._device = (await self._comfyui.stats()).device
            if self._device == "cpu":
                self._found(0)

    def _learn(self, held: int, busy: bool) -> None:
        """The most that was seen in a whole job; what it holds when nothing ran yet is no need."""
        if busy:
            self._climb = max(self._climb, held)
            return
        climb, self._climb = self._climb, 0
        if climb > (self._peak or 0) + _SLACK:
            self._found(climb)

    def _found(self, peak: int) -> None:
        self._peak = peak
        if self._vram is None and self._grew is not None:
            self._grew(self.tenant(), self.offer())

    async def _held(self) -> int | None:
        """By the driver, else by its own figures; 0 where it computes on the CPU."""
        held = await asyncio.to_thread(self._by_driver)
        if held is not None:
            self.gaps = ()
            return held
        stats = await self._comfyui.stats()
        if stats.device == "cpu":
            return 0
        self.gaps = (OWN_FIGURES,)
        return stats.torch_bytes
