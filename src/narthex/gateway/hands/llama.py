"""``LlamaHand``: the llama-servers that the gateway starts itself, one process an offer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from narthex.engines._base import Engine, Failure, LaunchFailed
from narthex.engines.llama_launch import HEALTH_S, Watch, is_ready, launch
from narthex.engines.llama_running import LEAVE_S, STOP_S, LlamaServer
from narthex.errors import NarthexError
from narthex.gateway.diagnosing import diagnosed
from narthex.gateway.hands._base import Progress, Seen, Told
from narthex.gateway.hands._held import free_bytes, server_holds
from narthex.gateway.hands.llama_setting import embedding_words, knobs_of, name_words, tail_of
from narthex.gateway.known_errors import absent_model
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.trouble import Trouble
from narthex.host.facts import CardsBefore
from narthex.host.gpu import cards_before
from narthex.host.processes import runs
from narthex.outcomes import Outcome

_T = TypeVar("_T")
NOT_LOADED = "not_loaded"  # the process is gone: whoever asks has it loaded again
_THREADS = 32  # of loads, ends and looks at the same time; each waits most of the time
_DEATH_S = 3.0  # a process that breaks a connection is gone by then; one that dumps core may take longer
_DEATH_POLL_S = 0.02


class _Abandoned(Exception):
    """Nobody wants this load any more: the launch ends what it started."""


@dataclass
class _Load:
    """A load under way. It belongs to the hand: who waits for it may leave."""

    told: list[Told]
    task: asyncio.Task[int | None] | None = None
    server: LlamaServer | None = None  # from the moment it is ready until it is kept
    abandoned: bool = False

    def watch(self, loop: asyncio.AbstractEventLoop, stage: str, share: float | None) -> None:
        """Called in the launch's thread; ends the launch where nobody wants it any more."""
        if self.abandoned:
            raise _Abandoned
        progress = Progress(stage=stage, share=share)
        for told in self.told:
            loop.call_soon_threadsafe(told, progress)


@dataclass
class _Up:
    """A server that was ready."""

    offer: Offer
    server: LlamaServer
    held: int | None
    before: CardsBefore | None
    failure: Failure | None = None  # once it ended without our doing


@dataclass
class _Free:
    """What was free before a load, for the words of its failure."""

    bytes: int | None = None
    before: CardsBefore | None = None


class LlamaHand:
    """Starts, watches and ends llama-servers on loopback. Several may live at once.

    ``engine`` may be a function that finds it (``engines.llama_server.find_engine``): it is called on the
    first load, in a thread. ``log_dir`` gets a file of output for each start. ``stall_s`` without any output
    or work fails a load; ``load_limit_s`` bounds all of it, None: nothing does.
    """

    def __init__(
        self,
        engine: Engine | Callable[[], Engine],
        log_dir: Path,
        *,
        stall_s: float,
        load_limit_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._log_dir = log_dir
        self._stall_s = stall_s
        self._limit_s = math.inf if load_limit_s is None else load_limit_s
        self._up: dict[str, _Up] = {}
        self._loads: dict[str, _Load] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="llama-hand")
        self._closed = False

    async def load(self, offer: Offer, told: Told) -> int | None:
        """Start a server for it and wait until it answers; one that is there, or on its way, is joined.
        Returns what it holds. Leaving this early ends no load. Raises Trouble."""
        up = self._up.get(offer.key)
        if up is not None and runs(up.server.pid):
            return up.held
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
        """End its server, or the load under way; returns once the process is gone and its memory is back."""
        if (load := self._loads.get(offer.key)) is not None and load.task is not None:
            load.abandoned = True
            await asyncio.wait({load.task})
        up = self._up.pop(offer.key, None)
        if up is not None:
            await asyncio.shield(self._thread(up.server.stop, STOP_S))

    def upstream(self, offer: Offer) -> Upstream:
        """Its server's own address. Raises Trouble where none runs."""
        up = self._up.get(offer.key)
        if up is None or not runs(up.server.pid):  # /proc knows at once, the guard tells a moment later
            words = f"No llama-server runs for «{offer.name}» now."
            raise Trouble(503, NOT_LOADED, words, remedy="Ask again: it is loaded then.", retry_after_s=1.0)
        return Upstream(url=up.server.url, dialect="llama-server", model="")

    async def look(self) -> tuple[Seen, ...]:
        """The servers whose process lives, with what they hold now."""
        there = [(key, up) for key, up in self._up.items() if self._lives(up) and runs(up.server.pid)]
        held = await self._thread(lambda: [_holds(up) for _, up in there]) if there else []
        for (_, up), now in zip(there, held, strict=True):
            up.held = now if now is not None else up.held
        return tuple(Seen(key=key, held=up.held) for key, up in there)

    def pids(self) -> dict[str, frozenset[int]]:
        """The process of each server that lives, for what NVML says of it."""
        return {key: frozenset({up.server.pid}) for key, up in self._up.items() if up.server.alive()}

    def told(self) -> dict[str, int]:
        """What each server that lives held when it was last looked at."""
        there = ((key, up) for key, up in self._up.items() if up.server.alive())
        return {key: up.held for key, up in there if up.held is not None}

    async def explain(self, offer: Offer, words: str, status: int | None) -> Trouble:
        """Why a request failed, or the server ended. A process that died is told by its own last lines."""
        trouble = await self._explained(offer, words, status)
        trouble.lasting = False  # of a request; only a load that failed is remembered
        return trouble

    async def close(self) -> None:
        """End every server and every load under way."""
        self._closed = True
        loads = [load for load in self._loads.values() if load.task is not None]
        for load in loads:
            load.abandoned = True
        if loads:
            await asyncio.wait({load.task for load in loads if load.task is not None})
        ends = [self._thread(up.server.stop, LEAVE_S) for up in self._up.values()]
        self._up.clear()
        await asyncio.gather(*ends)
        self._threads.shutdown(wait=False)

    async def _explained(self, offer: Offer, words: str, status: int | None) -> Trouble:
        up = self._up.get(offer.key)
        if up is None:
            return await diagnosed(words, status, model=offer.name, offer=offer)
        failure = await self._failure(up, words, status)
        log = await self._thread(tail_of, up.server.log_path)
        if failure is None:
            return await diagnosed(words, status, log, model=offer.name, offer=offer)
        return await diagnosed(
            failure.line,
            None,
            log,
            model=offer.name,
            offer=offer,
            outcome=failure.outcome,
            requested_bytes=failure.requested_bytes,
        )

    async def _load(self, offer: Offer, load: _Load) -> int | None:
        try:
            if (old := self._up.pop(offer.key, None)) is not None:  # it died, and makes room for another
                await self._thread(old.server.stop, 0.0)
            return await self._started(offer, load)
        finally:
            load.abandoned = True  # where this task itself was cancelled, the thread hears it by that
            self._loads.pop(offer.key, None)
            if load.server is not None:
                self._threads.submit(load.server.stop, LEAVE_S)

    async def _started(self, offer: Offer, load: _Load) -> int | None:
        watch = partial(load.watch, asyncio.get_running_loop())
        free = _Free()
        try:
            await self._thread(self._launch, offer, load, watch, free)
        except LaunchFailed as failed:
            raise await self._trouble(offer, failed, free) from None
        except _Abandoned:
            words = f"The load of «{offer.name}» was called off."
            raise Trouble(503, "load_called_off", words, remedy="Ask again.", retry_after_s=1.0) from None
        except NarthexError as error:  # no engine
            raise Trouble(503, "no_engine", error.message, remedy=error.hint, lasting=True) from None
        assert load.server is not None
        up = _Up(offer, load.server, None, free.before)
        up.held = await self._thread(_holds, up)
        self._up[offer.key], load.server = up, None
        return up.held

    def _launch(self, offer: Offer, load: _Load, watch: Watch, free: _Free) -> None:
        """In a thread, for minutes. Raises LaunchFailed, NarthexError, Trouble, and what ``watch`` raises."""
        if not Path(offer.model).exists():
            raise absent_model(offer.name, f"{offer.model}: no such file")
        watch("loading", None)
        engine = self._found()
        words = (*name_words(offer, engine), *embedding_words(offer, engine))
        extra = (*engine.extra_args, *offer.engine_args, *words)
        engine = msgspec.structs.replace(engine, extra_args=extra)
        free.bytes, free.before = free_bytes(), cards_before()
        server = launch(
            engine,
            offer.model,
            knobs_of(offer),
            log_dir=self._log_dir,
            timeout_s=self._limit_s,
            stall_s=self._stall_s,
            watch=watch,
        )
        if load.abandoned:
            server.stop(LEAVE_S)
            raise _Abandoned
        load.server = server

    def _found(self) -> Engine:
        if not isinstance(self._engine, Engine):
            self._engine = self._engine()
        return self._engine

    async def _trouble(self, offer: Offer, failed: LaunchFailed, free: _Free) -> Trouble:
        log = await self._thread(tail_of, failed.log_path)
        return await diagnosed(
            failed.failure.line,
            None,
            log,
            model=offer.name,
            offer=offer,
            outcome=failed.failure.outcome,
            free_bytes=free.bytes,
            requested_bytes=failed.failure.requested_bytes,
        )

    async def _failure(self, up: _Up, words: str, status: int | None) -> Failure | None:
        """Why the process ended; None while it lives on, unless its log tells of a failed allocation."""
        if self._lives(up) and status is None:
            port = int(up.server.url.rpartition(":")[2])
            begun = time.monotonic()
            while self._lives(up) and (asked := time.monotonic()) < begun + _DEATH_S:
                if await self._thread(is_ready, port):
                    return None  # what answers is not about to die
                if time.monotonic() - asked >= HEALTH_S / 2:
                    break  # it takes the question and does not answer: it hangs
                await asyncio.sleep(_DEATH_POLL_S)
        if not self._lives(up):
            return up.failure
        outcome = Outcome.STALLED if status is None else Outcome.REQUEST_FAILED
        seen = await self._thread(lambda: up.server.explain(outcome, words, lost=False))
        return seen if seen.outcome.is_memory or status is None else None

    def _lives(self, up: _Up) -> bool:
        if up.failure is None and not up.server.alive():
            up.failure = up.server.failure()
        return up.server.alive()

    def _thread(self, call: Callable[..., _T], *arguments: object) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _holds(up: _Up) -> int | None:
    return server_holds(up.server.pid, up.server.report.buffers, up.before)


def _heard(task: asyncio.Task[int | None]) -> None:
    """Nobody may be left to hear how a load ended."""
    if not task.cancelled():
        task.exception()
