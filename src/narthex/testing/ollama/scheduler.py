"""``Scheduler``: which runners are loaded, who waits, and who has to go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

from narthex.testing.ollama.devices import Device, Engine, system_memory
from narthex.testing.ollama.era_words import EraWords
from narthex.testing.ollama.gowords import FOREVER_NS, NS, binary_size
from narthex.testing.ollama.log import Log
from narthex.testing.ollama.manner import Manner
from narthex.testing.ollama.pending import Busy, ClientLeft, Request
from narthex.testing.ollama.reload_rule import adjusted, differs, slots, start_for
from narthex.testing.ollama.runner import LoadFailed, Runner, exit_words, is_oom, later
from narthex.testing.ollama.settings import Settings

_LOWER_TIER = {262144: 32768, 32768: 4096}
_FIT_SHARE = 0.8  # of free memory: what a second model may be predicted to take
_RECOVERED_SHARE = 0.75  # of what a runner held
_POLL_S = 0.25


class Scheduler:
    """Loads and evictions happen one at a time, in order of arrival.

    ``recovery_s`` is how long an unload may wait for the GPU's memory to come back: 5 in Ollama.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        words: EraWords,
        *,
        devices: tuple[Device, ...],
        limit_mib: int | None = None,
        recovery_s: float = 5.0,
    ) -> None:
        self.engine, self.settings, self.words, self.devices = engine, settings, words, devices
        self.limit_mib, self.recovery_s = limit_mib, recovery_s
        self.loaded: dict[str, Runner] = {}
        self.total_vram = sum(device.total - settings.gpu_overhead for device in devices)
        self.default_ctx = self.manner.default_ctx(self.total_vram)
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._busy = False  # the worker has a request, or one was handed to it
        self._waiting = 0  # behind that one
        self._ending: set[asyncio.Task[None]] = set()
        self._worker: asyncio.Task[None] | None = None

    @property
    def manner(self) -> Manner:
        """The release to be."""
        return self.words.manner

    @property
    def log(self) -> Log:
        """Where it says what it does."""
        return self.words.log

    def open(self) -> None:
        """Begin to serve."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End every runner at once."""
        self.recovery_s = 0.0
        while self._worker is not None and not self._worker.done():
            self._worker.cancel()  # again: one that ends a load in this moment takes it for that load's
            await asyncio.wait({self._worker}, timeout=_POLL_S)
        await asyncio.gather(*(runner.stop() for runner in self.loaded.values()), *self._ending)
        self.loaded.clear()

    async def acquire(self, request: Request) -> Runner:
        """A runner for this request, held until :meth:`release`. Raises Busy, LoadFailed, ClientLeft."""
        runner = self.loaded.get(request.blob)
        if runner is not None and not await self._needs_reload(runner, request):
            return self._use(runner, request)
        self._put(request)
        try:
            return await request.runner
        except asyncio.CancelledError:
            request.gone.set()
            raise ClientLeft(499 if request.loading else None) from None

    def release(self, runner: Runner) -> None:
        """A request is done with it: the timer begins when nobody uses it any more."""
        runner.refs -= 1
        if runner.refs > 0:
            return
        runner.idle.set()
        runner.expires_ns = later(runner.session_ns)
        if runner.session_ns <= 0:
            self._unload(runner)
        elif runner.session_ns < FOREVER_NS:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.session_ns / NS, self._unload, runner)

    def expire(self, blob: str) -> None:
        """Unload now, or as soon as nobody uses it; nothing happens where it is not loaded."""
        runner = self.loaded.get(blob)
        if runner is not None:
            runner.session_ns = 0
            if runner.refs <= 0:
                self._unload(runner)

    def expire_all(self) -> None:
        """After memory ran out while computing."""
        self.log.warn("runtime OOM detected; expiring loaded models to clear memory before next request")
        for blob in list(self.loaded):
            self.expire(blob)

    def _use(self, runner: Runner, request: Request) -> Runner:
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        if request.keep_alive_ns is not None:
            runner.session_ns = request.keep_alive_ns
        runner.refs += 1
        runner.idle.clear()
        return runner

    async def _needs_reload(self, runner: Runner, request: Request) -> bool:
        if differs(runner.start, adjusted(request.wanted, request.model), self.manner):
            return True
        if runner.alive() and await runner.health() == "ok":
            return False
        if await runner.ended():
            name = "llama-server" if self.manner.era == "F" else "llama runner"
            code = runner.exit_code or 0
            self.log.warn(f"{name} process no longer running", sys=abs(code), string=exit_words(code))
        return True

    def _put(self, request: Request) -> None:
        """One request may be with the worker and ``max_queue`` behind it."""
        if self._busy and self._waiting >= self.settings.max_queue:
            raise Busy
        self._waiting += self._busy
        self._busy = True
        self._queue.put_nowait(request)

    async def _work(self) -> None:
        while True:
            await self._answer(await self._queue.get())
            self._busy = self._waiting > 0
            self._waiting -= self._busy

    async def _answer(self, request: Request) -> None:
        if request.gone.is_set():
            self.log.debug("pending request cancelled or timed out, skipping scheduling")
            return
        try:
            runner = await self._serve(request)
        except LoadFailed as failed:
            if not request.runner.done():
                request.runner.set_exception(failed)
            return
        if request.runner.done():  # the client left in this moment
            self.release(runner)
        else:
            request.runner.set_result(runner)

    async def _serve(self, request: Request) -> Runner:
        """Make room and load, or find that it is loaded by now."""
        while True:
            runner = self.loaded.get(request.blob)
            if runner is not None:
                if not await self._needs_reload(runner, request):
                    return self._use(runner, request)
                self.log.debug("reloading", runner__model=runner.model.blob)
                await self._evict(runner)
            elif victim := self._in_the_way(request):
                self.log.debug("resetting model to expire immediately to make room")
                await self._evict(victim)
            else:
                return await self._load_or_retry(request)

    def _in_the_way(self, request: Request) -> Runner | None:
        """Whom to evict before this one loads: the count first, then the predicted memory."""
        if not self.loaded:
            return None
        if len(self.loaded) >= (self.settings.max_loaded or 3 * max(len(self.devices), 1)):
            self.log.debug("max runners achieved, unloading one to make room", runner_count=len(self.loaded))
            return self._victim()
        if not self.devices or request.wanted.num_gpu >= 0:
            return None
        num_ctx = adjusted(request.wanted, request.model).num_ctx
        predicted = request.model.predicted(num_ctx * slots(request.model, self.settings, self.manner))
        free = self._free()
        fits = predicted <= _FIT_SHARE * free
        said = "fits alongside existing models" if fits else "predicted to exceed available memory, evicting"
        self.log.info(
            f"llama-server model {said}",
            predicted=binary_size(predicted),
            predicted_num_ctx=num_ctx,
            num_batch=request.wanted.num_batch,
            available=binary_size(free),
            gpu_free=binary_size(free),
            system_free=binary_size(system_memory()[1]),
            system_limited=False,
        )
        return None if fits else self._victim()

    def _victim(self) -> Runner:
        """The shortest keep-alive first, then by path; an idle one before a busy one."""
        order = sorted(self.loaded.values(), key=lambda runner: (runner.session_ns, str(runner.model.blob)))
        return next((runner for runner in order if runner.refs <= 0), order[0])

    def _free(self) -> int:
        """Bookkeeping, as in Ollama: what other programs took since is not seen."""
        held = sum(runner.buffers.on_gpu for runner in self.loaded.values())
        return max(min(d.total - held, d.free) for d in self.devices) if self.devices else 0

    async def _evict(self, runner: Runner) -> None:
        """Wait until nobody uses it and it is gone."""
        runner.session_ns = 0
        while runner.refs > 0:
            await runner.idle.wait()
        self._unload(runner)
        await runner.gone.wait()

    def _unload(self, runner: Runner) -> None:
        """Take it off the list at once; the process ends in the background."""
        if runner.refs > 0 or self.loaded.get(str(runner.model.blob)) is not runner:
            return
        del self.loaded[str(runner.model.blob)]
        if runner.timer is not None:
            runner.timer.cancel()
        task = asyncio.create_task(self._end(runner))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, runner: Runner) -> None:
        """Until the process is gone and, as far as that can be seen, its memory came back."""
        try:
            wait = bool(runner.buffers.on_gpu and self.recovery_s)
            before = await self._free_now() if wait else 0
            await runner.stop()
            until = time.monotonic() + self.recovery_s
            wanted = before + _RECOVERED_SHARE * runner.buffers.on_gpu
            while wait and await self._free_now() < wanted and time.monotonic() < until:
                await asyncio.sleep(_POLL_S)
        finally:
            runner.gone.set()

    async def _free_now(self) -> int:
        devices = await asyncio.to_thread(self.engine.devices, self.settings.environ)
        return sum(device.free for device in devices)

    async def _load_or_retry(self, request: Request) -> Runner:
        """At most one retry: with less context where that was automatic, or with the others unloaded."""
        if self._ending:
            await asyncio.wait(set(self._ending))
        request.loading = True
        try:
            return await self._load(request)
        except LoadFailed as failed:
            lower = _LOWER_TIER.get(request.wanted.num_ctx)
            shrinks = bool(request.wanted.ctx_auto and lower and self.manner.era == "F")
            if not is_oom(str(failed)) or request.gone.is_set() or not (shrinks or self.loaded):
                raise
            said = "reducing automatic context" if shrinks else "evicting all other models"
            was = request.wanted
            if shrinks and lower:
                request.wanted = replace(was, num_ctx=lower)
            self.log.warn(
                f"llama-server load failed; {said} and retrying once",
                model=request.blob,
                old_num_ctx=was.num_ctx,
                new_num_ctx=request.wanted.num_ctx,
                loaded_count=len(self.loaded),
                evict_all=not shrinks,
                error=failed,
            )
            if not shrinks:
                for runner in list(self.loaded.values()):
                    await self._evict(runner)
        return await self._load(request)

    async def _load(self, request: Request) -> Runner:
        """Start a runner; a client that leaves meanwhile ends it."""
        wanted, model = adjusted(request.wanted, request.model), request.model
        start = start_for(
            wanted,
            model,
            self.settings,
            self.manner,
            devices=self.devices,
            free=self._free(),
            template=request.template,
        )
        predicted, room = model.predicted(start.num_ctx * start.parallel), system_memory()[1]
        if self.limit_mib is not None:
            room = min(room, self.limit_mib * 2**20)
        if refusal := self.words.too_large(predicted, room + self._free()):
            raise LoadFailed(refusal)
        self.words.planned(model, start, self.devices)
        if request.wanted.num_ctx > wanted.num_ctx:
            asked = {"num_ctx": request.wanted.num_ctx, "n_ctx_train": model.context_train}
            self.log.warn("requested context size too large for model", **asked)
        runner = Runner(self.engine, request.stored, model, start, self.words)
        await self._launch(runner, request)
        runner.session_ns = self.settings.keep_alive_ns
        self.loaded[request.blob] = runner
        self.words.loaded(runner, request.stored.name.full, len(self.loaded), runner.load_s)
        return self._use(runner, request)

    async def _launch(self, runner: Runner, request: Request) -> None:
        launch = asyncio.create_task(runner.launch(self.settings, self.devices, self.limit_mib))
        left = asyncio.create_task(request.gone.wait())
        try:
            await asyncio.wait({launch, left}, return_when=asyncio.FIRST_COMPLETED)
            if not launch.done():
                self.log.warn("client connection closed before llama-server finished loading, aborting load")
                raise LoadFailed("timed out waiting for llama-server to start: context canceled")
            await launch
        except LoadFailed as failed:
            self.log.info("Load failed", model=request.blob, error=failed)
            raise
        finally:
            for task in (launch, left):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, LoadFailed):
                    await task
