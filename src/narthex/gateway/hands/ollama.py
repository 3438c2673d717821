"""``OllamaHand``: loads and unloads in an Ollama that narthex did not start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from narthex.engines._base import Failure
from narthex.engines.ollama import failures, processes
from narthex.engines.ollama.logs import FileLog, LogSource
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.shown import shown_blob
from narthex.engines.oom import oom_kills, oom_kills_since
from narthex.gateway.diagnosing import LOG_BYTES, diagnosed
from narthex.gateway.hands._base import Progress, Seen, Told
from narthex.gateway.hands._held import free_bytes
from narthex.gateway.hands.ollama_api import OllamaApi, error_words, unreachable
from narthex.gateway.hands.ollama_progress import LoadWatch
from narthex.gateway.hands.ollama_residents import Ours, foreign_offer, held, is_named, key_of, seen
from narthex.gateway.known_errors import absent_model
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.trouble import Trouble
from narthex.host.gpu import VramReturn, open_nvml
from narthex.host.processes import runs
from narthex.outcomes import Outcome
from narthex.units import format_duration

_T = TypeVar("_T")
KEEP_S = (
    3600.0  # longer than the gateway keeps an idle model; a gateway that was killed pins nothing for ever
)
BLIND_S = 360.0  # of an Ollama elsewhere: it gives a load up by itself after five minutes without progress
LOOK_S = 1.0
UNLOAD_S = 600.0  # it waits for the answers under way, and a long answer takes minutes
_ASK_AGAIN_S = 5.0  # another client may have loaded it anew meanwhile
_POLL_S = 0.05
_LOG_S = 1.0  # a reading of the log may take this long; then it is left out
_QUEUE_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_UNLOADED = ("does not support generate", "does not support chat")
# What the connection's end alone proves; the log or the rules may know better.
_VAGUE = frozenset({Outcome.REQUEST_FAILED, Outcome.TIMEOUT})


@dataclass
class _Load:
    """A load under way. It belongs to the hand: who waits for it may leave."""

    told: list[Told]
    task: asyncio.Task[int | None] | None = None


@dataclass(frozen=True)
class _Since:
    """A moment in the server's life, to tell afterwards what came since."""

    mark: Any
    kills: int | None
    free_bytes: int | None = None


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
        self._server, self._log = server, log
        self._stall_s, self._blind_s = stall_s, max(stall_s, blind_s)
        self._keep_alive = keep_alive
        self._offers: dict[str, Offer] = {}
        self._ours: dict[str, Ours] = {}
        self._runners: dict[str, int] = {}  # by the key: the process that computes
        self._since: dict[str, _Since] = {}
        self._blobs: dict[str, str | None] = {}  # by what was asked for: digest of the GGUF file
        self._foreign: dict[str, Offer] = {}
        self._held: dict[str, int] = {}  # by the key: what was last told
        self._loads: dict[str, _Load] = {}

    @property
    def here(self) -> bool:
        """Whether the server computes on this machine, as far as that is known."""
        return self._server is not None and self._server.place != "elsewhere"

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
        mine, pid = self._ours.pop(offer.key, None), self._runners.pop(offer.key, None)
        self._held.pop(offer.key, None)
        memory = await asyncio.to_thread(_memory, pid) if pid is not None else None
        try:
            await self._let_go(offer, mine.name if mine is not None else offer.model)
        except ApiError as error:
            if pid is not None and not runs(pid):
                return  # the server is gone, and its runner with it
            raise self._refusal(error) from None
        while pid is not None and runs(pid):
            await asyncio.sleep(_POLL_S)
        if memory is not None:
            await asyncio.to_thread(memory.is_back)

    def upstream(self, offer: Offer) -> Upstream:
        """The server itself; the model's name tells it which."""
        return Upstream(url=self.api.url, dialect="ollama", model=offer.model)

    async def look(self) -> tuple[Seen, ...]:
        """What is loaded, each as the offer that it is; one that is none of them as «ollama:NAME». A model
        whose process died is left out, though Ollama still lists it."""
        try:
            residents = await self.api.ps()
        except ApiError as error:
            raise self._refusal(error) from None
        rows = []
        foreign: dict[str, Offer] = {}
        for resident in residents:
            key = key_of(resident, self._offers.values(), self._ours)
            pid = await self._pid(key, resident)
            if pid is not None and not runs(pid):
                continue
            if key not in self._offers and key not in self._ours:
                foreign[key] = foreign_offer(resident, self._offers.values())
            rows.append(seen(key, resident, pid=pid, here=self.here))
        self._foreign = foreign
        self._held = {row.key: row.held for row in rows if row.held is not None}
        return tuple(rows)

    def pids(self) -> dict[str, frozenset[int]]:
        """The runners that can be seen, by their offer, for what NVML says of them."""
        return {key: frozenset({pid}) for key, pid in self._runners.items() if runs(pid)}

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
                return self._refusal(down)
        pid = self._runners.get(offer.key)
        if status is None and pid is not None and not runs(pid):
            # Ollama itself notices with the next request only, so its log says nothing yet.
            status, text = 500, f"llama runner process no longer running: process {pid} is gone ({text})"
        error = ApiError(text, status=status)
        trouble = await self._trouble(offer, error, self._since.get(offer.key), loaded=True)
        trouble.lasting = False  # of a request; only a load that failed is remembered
        return trouble

    async def close(self) -> None:
        """End the loads under way and close the connections. Models that are there stay: Ollama was not
        started here, and lets them go by itself."""
        tasks = [load.task for load in self._loads.values() if load.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.api.close()

    # a load

    async def _load(self, offer: Offer, load: _Load) -> int | None:
        try:
            return await self._loaded(offer, load)
        finally:
            self._loads.pop(offer.key, None)

    async def _loaded(self, offer: Offer, load: _Load) -> int | None:
        since = await self._now()
        try:
            blob = await self._blob(offer.model)
            await self._preloaded(offer, load, blob)
            residents = await self.api.ps()
        except ApiError as error:
            raise await self._trouble(offer, error, since, loaded=False) from None
        resident = await self._find(residents, offer, blob)
        if resident is None:
            words = "Ollama said that the model is loaded, and does not list it"
            raise await self._trouble(offer, ApiError(words, status=500), since, loaded=False)
        pid = await asyncio.to_thread(self._runner, blob)
        self._ours = {key: mine for key, mine in self._ours.items() if mine.name != resident.name}
        self._ours[offer.key] = Ours(resident.name, resident.context_length)
        if pid is not None:
            self._runners[offer.key] = pid
        self._since[offer.key] = await self._now()
        size = await asyncio.to_thread(held, resident, pid=pid, here=self.here)
        self._held |= {offer.key: size} if size is not None else {}
        return size

    async def _preloaded(self, offer: Offer, load: _Load, blob: str | None) -> None:
        """Returns once Ollama says that it is loaded. Raises ApiError, and Trouble for a load that stands
        still."""
        log = self._log if isinstance(self._log, FileLog) else None  # others cost a program each look
        watch = LoadWatch(self._server, blob, log)
        post = asyncio.create_task(self._asked(offer))
        guard = asyncio.create_task(self._stalled(offer, load, watch))
        try:
            await asyncio.wait({post, guard}, return_when=asyncio.FIRST_COMPLETED)
            if not post.done():
                raise guard.result()
            post.result()
        finally:
            for task in (post, guard):
                task.cancel()
            await asyncio.gather(post, guard, return_exceptions=True)

    async def _asked(self, offer: Offer) -> None:
        """One load, over one connection; asks again while Ollama's queue is full."""
        pauses = iter(_QUEUE_PAUSES_S)
        embeds = "embedding" in offer.capabilities and "completion" not in offer.capabilities
        while True:
            path, body = self._question(offer, embeds=embeds)
            try:
                return await self.api.ask(path, body)
            except ApiError as error:
                if error.status == 400 and not embeds and any(words in error.text for words in _UNLOADED):
                    embeds = True
                elif error.status == 503 and (pause := next(pauses, None)) is not None:
                    await asyncio.sleep(pause)
                else:
                    raise

    def _question(self, offer: Offer, *, embeds: bool) -> tuple[str, dict[str, Any]]:
        seconds = self._keep_alive(offer) if callable(self._keep_alive) else self._keep_alive
        body: dict[str, Any] = {"model": offer.model, "keep_alive": -1 if seconds < 0 else seconds}
        if offer.options:
            body["options"] = offer.options
        # A model that only embeds can't be asked to generate; nothing to embed loads it just so.
        return ("/api/embed", body | {"input": ""}) if embeds else ("/api/generate", body | {"stream": False})

    async def _stalled(self, offer: Offer, load: _Load, watch: LoadWatch) -> Trouble:
        """Returns once the load stands still; else it goes on for ever."""
        limit_s = self._blind_s if watch.blind else self._stall_s
        residents: Sequence[Resident] | None
        while True:
            try:
                residents = await self.api.ps()
            except ApiError:
                residents = None
            silent_s = await asyncio.to_thread(watch.look, residents)
            if silent_s > limit_s:
                return await self._wedged(offer, watch, silent_s)
            stage = "waiting for Ollama" if self.here and watch.waits_behind else "loading"
            for told in load.told:
                told(Progress(stage=stage))
            await asyncio.sleep(min(LOOK_S, limit_s / 4))

    async def _wedged(self, offer: Offer, watch: LoadWatch, silent_s: float) -> Trouble:
        try:
            version = await self.api.version()
        except ApiError as error:
            return self._refusal(error)
        what = (
            f"its runner (process {watch.pid}) did nothing"
            if watch.pid is not None
            else "it has not even started a runner for it"
            if self.here
            else "nothing came of it"
        )
        return Trouble(
            504,
            "model_load_hangs",
            f"Ollama {version} at {self.api.url} answers its lists, but the load of «{offer.name}» hangs: "
            f"{what} for {format_duration(silent_s)}.",
            remedy=f"Its load path is wedged: restart it, {self._restart()}.",
            lasting=True,
            figures={"silent_s": round(silent_s, 1)},
        )

    def _restart(self) -> str:
        server = self._server
        if server is not None and server.container is not None:
            return f"docker restart {server.container.name}"
        if server is not None and server.unit:
            return f"sudo systemctl restart {server.unit}"
        return "sudo systemctl restart ollama (in a container: docker restart NAME)"

    # an unload

    async def _let_go(self, offer: Offer, name: str) -> None:
        """Until Ollama lists it no more. Raises ApiError, and Trouble where it stays."""
        until, ask_at = time.monotonic() + UNLOAD_S, 0.0
        blob = self._blobs.get(offer.model)
        while (resident := await self._find(await self.api.ps(), offer, blob, name)) is not None:
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

    # what is there

    async def _find(
        self, residents: Sequence[Resident], offer: Offer, blob: str | None, name: str = ""
    ) -> Resident | None:
        """The resident that serves it: by its name, else by its blob, which another name may share."""
        for resident in residents:
            if is_named(resident, offer) or resident.name == name:
                return resident
        for resident in residents if blob else ():
            if await self._blob(resident.name) == blob:
                return resident
        return None

    async def _blob(self, name: str) -> str | None:
        """Digest of the GGUF file; None where Ollama does not tell. Raises ApiError for a name that it does
        not know, and where it does not answer."""
        if name not in self._blobs:
            try:
                self._blobs[name] = shown_blob(await self.api.show(name))
            except ApiError as error:
                if error.lost or error.status in (None, 404):
                    raise
                return None
        return self._blobs[name]

    async def _pid(self, key: str, resident: Resident) -> int | None:
        """Of the process that computes for it, dead or alive; None where it can't be seen."""
        if not self.here:
            return None
        known = self._runners.get(key)
        if known is not None and runs(known):
            return known
        try:
            blob = await self._blob(resident.name)
        except ApiError:
            return None
        pid = await asyncio.to_thread(self._runner, blob)
        if pid is not None:
            self._runners[key] = pid
        return pid or known

    def _runner(self, blob: str | None) -> int | None:
        if self._server is None or not self.here or not blob:
            return None
        return processes.runner_pid(blob, self._server.pid)

    # words

    def _refusal(self, error: ApiError) -> Trouble:
        return unreachable(self.api.url, error.text)

    async def _trouble(self, offer: Offer, error: ApiError, since: _Since | None, *, loaded: bool) -> Trouble:
        if error.lost or (error.status is None and not loaded):
            try:
                await self.api.version()
            except ApiError as down:
                return self._refusal(down)
        if error.status == 404:
            return absent_model(offer.model, error.text)
        refused = error.status is not None and 400 <= error.status < 500
        lines = await self._lines(since) if since is not None and not refused else []
        failure = None if refused else self._failure(error, lines, since, loaded=loaded)
        log = [("ollama log", "\n".join(lines).encode()[-LOG_BYTES:])] if lines else []
        return await diagnosed(
            error.text,
            error.status,
            log,
            model=offer.name,
            offer=offer,
            outcome=failure.outcome if failure is not None and failure.outcome not in _VAGUE else None,
            requested_bytes=failure.requested_bytes if failure is not None else None,
            free_bytes=since.free_bytes if since is not None and not loaded else None,
        )

    def _failure(
        self, error: ApiError, lines: Sequence[str], since: _Since | None, *, loaded: bool
    ) -> Failure:
        kills = oom_kills_since(since.kills) if since is not None and self.here else None
        return failures.explain(error, lines, loaded=loaded, oom_kills=kills)

    async def _now(self) -> _Since:
        mark = await self._read(self._log.mark) if self._log is not None else None
        free = await asyncio.to_thread(free_bytes) if self.here else None
        return _Since(mark, oom_kills(), free)

    async def _lines(self, since: _Since) -> list[str]:
        if self._log is None or since.mark is None:
            return []
        log, mark = self._log, since.mark
        return await self._read(lambda: log.since(mark)) or []

    async def _read(self, call: Callable[[], _T]) -> _T | None:
        """From the log; None where that takes too long: an answer may not wait for a journal."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(call), _LOG_S)
        except TimeoutError:
            return None


def _memory(pid: int) -> VramReturn:
    return VramReturn(pid, 0, open_nvml()[0])


def _heard(task: asyncio.Task[int | None]) -> None:
    """Nobody may be left to hear how a load ended."""
    if not task.cancelled():
        task.exception()
