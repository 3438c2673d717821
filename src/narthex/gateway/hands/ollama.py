"""``OllamaHand``: loads and unloads in an Ollama that narthex did not start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from narthex.engines.ollama.logs import LogSource
from narthex.engines.ollama.records import ApiError, Server
from narthex.gateway.hands._base import Seen, Told
from narthex.gateway.hands.ollama_api import OllamaApi, error_words
from narthex.gateway.hands.ollama_preload import Preload
from narthex.gateway.hands.ollama_residents import Ours, foreign_offer, held, key_of, seen
from narthex.gateway.hands.ollama_site import OllamaSite
from narthex.gateway.hands.ollama_words import OllamaWords
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.trouble import Trouble
from narthex.host.gpu import VramReturn, open_nvml
from narthex.host.processes import runs
from narthex.units import format_duration

KEEP_S = (
    3600.0  # longer than the gateway keeps an idle model; a gateway that was killed pins nothing for ever
)
BLIND_S = 360.0  # of an Ollama elsewhere: it gives a load up by itself after five minutes without progress
UNLOAD_S = 600.0  # it waits for the answers under way, and a long answer takes minutes
PROCESS_S = 30.0  # of a runner that is no longer listed: it ends within a second
DEATH_S = 0.5  # a runner that breaks a connection is gone by then
_ASK_AGAIN_S = 5.0  # another client may have loaded it anew meanwhile
_POLL_S = 0.05


@dataclass
class _Load:
    """A load under way. It belongs to the hand: who waits for it may leave."""

    told: list[Told]
    task: asyncio.Task[int | None] | None = None


class OllamaHand:
    """Drives one Ollama. ``server`` is what was found out of it, None where nothing was; ``log`` its log.

    A load goes over one patient connection of the gateway's own, since Ollama ends a load whose client
    leaves. ``stall_s`` without progress fails it; where nothing of the server can be seen ``blind_s`` does.
    ``keep_alive`` in seconds is what Ollama is told with each load, negative for ever.
    """

    def __init__(
        self,
        url: str,
        *,
        server: Server | None,
        stall_s: float,
        log: LogSource | None = None,
        keep_alive: float | Callable[[Offer], float] = KEEP_S,
        blind_s: float = BLIND_S,
    ) -> None:
        self.api = OllamaApi(url)
        self._site = OllamaSite(self.api, server, log)
        self._words = OllamaWords(self._site)
        self._limits_s = (stall_s, max(stall_s, blind_s))
        self._keep_alive = keep_alive
        self._offers: dict[str, Offer] = {}
        self._ours: dict[str, Ours] = {}
        self._foreign: dict[str, Offer] = {}
        self._held: dict[str, int] = {}  # by the key: what was last told
        self._loads: dict[str, _Load] = {}

    @property
    def here(self) -> bool:
        """Whether the server computes on this machine, as far as that is known."""
        return self._site.here

    def know(self, offers: Iterable[Offer]) -> None:
        """The offers that residents are compared with; they replace those told before."""
        self._offers = {offer.key: offer for offer in offers if offer.backend == "ollama"}

    def foreign(self, key: str) -> Offer | None:
        """What was last seen under a key that begins with «ollama:», to be let go."""
        return self._foreign.get(key)

    async def load(self, offer: Offer, told: Told) -> int | None:
        """Load it with the offer's options; one that is on its way is joined. Returns what it holds, None
        where nothing tells. Leaving this early ends no load. Raises Trouble."""
        self._offers.setdefault(offer.key, offer)
        load = self._loads.get(offer.key)
        if load is None:
            load = self._loads[offer.key] = _Load([told])
            load.task = asyncio.create_task(self._load(offer, load), name=f"load {offer.key}")
            load.task.add_done_callback(_heard)
        else:
            load.told.append(told)
        assert load.task is not None
        return await asyncio.shield(load.task)

    async def unload(self, offer: Offer) -> None:
        """Let it go. Returns once Ollama no longer lists it, its process is gone and its memory is back.
        Raises Trouble where Ollama does not answer, or keeps it."""
        if (load := self._loads.get(offer.key)) is not None and load.task is not None:
            load.task.cancel()
            await asyncio.wait({load.task})
        mine, pid = self._ours.pop(offer.key, None), self._site.forget(offer.key)
        self._held.pop(offer.key, None)
        memory = await asyncio.to_thread(_memory, pid) if pid is not None else None
        try:
            await self._let_go(offer, mine.name if mine is not None else offer.model)
        except ApiError as error:
            if pid is not None and await _is_gone(pid, DEATH_S):
                return  # the server is down, and its runner went with it
            raise self._words.refusal(error) from None
        if pid is not None:
            await _is_gone(pid, PROCESS_S)
        if memory is not None:
            await asyncio.to_thread(memory.is_back)

    def upstream(self, offer: Offer) -> Upstream:
        """The server itself; the model's name tells it which."""
        return Upstream(url=self.api.url, dialect="ollama", model=offer.model)

    async def look(self) -> tuple[Seen, ...]:
        """What is loaded, each as the offer that it is; one that is none of them as «ollama:NAME». A model
        whose process died is left out, though Ollama still lists it."""
        await self._site.refresh()
        try:
            residents = await self.api.ps()
        except ApiError as error:
            raise self._words.refusal(error) from None
        rows = []
        foreign: dict[str, Offer] = {}
        for resident in residents:
            key = key_of(resident, self._offers.values(), self._ours)
            pid = await self._site.runner(key, resident.name)
            if pid is not None and not runs(pid):
                continue
            if key not in self._offers and key not in self._ours:
                foreign[key] = foreign_offer(resident, self._offers.values())
            rows.append(await asyncio.to_thread(seen, key, resident, pid=pid, here=self.here))
        await self._words.turn()
        self._foreign = foreign
        self._held = {row.key: row.held for row in rows if row.held is not None}
        return tuple(rows)

    def pids(self) -> dict[str, frozenset[int]]:
        """The runners that can be seen, by their offer, for what NVML says of them."""
        return {key: frozenset({pid}) for key, pid in self._site.runners().items() if runs(pid)}

    def told(self) -> dict[str, int]:
        """What each resident held when it was last looked at or loaded."""
        return dict(self._held)

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        """Why a request failed: by Ollama's words, its log since the load, and whether it still answers."""
        text = error_words(words.encode()) if words.lstrip().startswith("{") else words
        if status is None:
            try:
                await self.api.version()
            except ApiError as down:
                return self._words.refusal(down)
        pid = self._site.runners().get(offer.key) if status is None else None
        if pid is not None and await _is_gone(pid, DEATH_S):
            # Ollama itself notices with the next request only, so its log says nothing yet.
            status, text = 500, f"llama runner process no longer running: process {pid} is gone ({text})"
        return await self._words.of_request(offer, ApiError(text, status=status))

    async def close(self) -> None:
        """End the loads under way and close the connections. Models that are there stay: Ollama was not
        started here, and lets them go by itself."""
        tasks = [load.task for load in self._loads.values() if load.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.api.close()

    async def _load(self, offer: Offer, load: _Load) -> int | None:
        try:
            return await self._loaded(offer, load)
        finally:
            self._loads.pop(offer.key, None)

    async def _loaded(self, offer: Offer, load: _Load) -> int | None:
        await self._site.refresh()
        since = await self._words.begin()
        keep_s = self._keep_alive(offer) if callable(self._keep_alive) else self._keep_alive
        preload = Preload(self._site, offer, load.told, keep_alive=keep_s, limits_s=self._limits_s)
        try:
            await preload.run(await self._site.blob(offer.model))
            resident = await self._site.find(await self.api.ps(), offer)
        except ApiError as error:
            raise await self._words.of_load(offer, error, since) from None
        if resident is None:
            words = "Ollama said that the model is loaded, and does not list it"
            raise await self._words.of_load(offer, ApiError(words, status=500), since)
        self._ours = {key: mine for key, mine in self._ours.items() if mine.name != resident.name}
        self._ours[offer.key] = Ours(resident.name, resident.context_length)
        pid = await self._site.runner(offer.key, resident.name)
        size = await asyncio.to_thread(held, resident, pid=pid, here=self.here)
        self._held |= {offer.key: size} if size is not None else {}
        return size

    async def _let_go(self, offer: Offer, name: str) -> None:
        """Until Ollama lists it no more. Raises ApiError, and Trouble where it stays."""
        until, ask_at = time.monotonic() + UNLOAD_S, 0.0
        while (resident := await self._site.find(await self.api.ps(), offer, name)) is not None:
            now = time.monotonic()
            if now > until:
                words = (
                    f"Ollama still holds «{offer.name}» {format_duration(UNLOAD_S)} after it was told to go"
                )
                way = "Another client keeps it busy, or loads it again and again: see its log."
                raise Trouble(503, "unload_hangs", f"{words}.", remedy=way)
            if now >= ask_at:
                ask_at = now + _ASK_AGAIN_S
                body = {"model": resident.name, "keep_alive": 0, "stream": False}
                await self.api.ask("/api/generate", body, _ASK_AGAIN_S)
            await asyncio.sleep(_POLL_S)


async def _is_gone(pid: int, seconds: float) -> bool:
    """Whether the process has ended; waits for that so long."""
    until = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < until:
        await asyncio.sleep(_POLL_S)
    return not runs(pid)


def _memory(pid: int) -> VramReturn:
    return VramReturn(pid, 0, open_nvml()[0])


def _heard(task: asyncio.Task[int | None]) -> None:
    """Nobody may be left to hear how a load ended."""
    if not task.cancelled():
        task.exception()
