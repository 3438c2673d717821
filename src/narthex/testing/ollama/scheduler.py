"""``Scheduler``: which runners are loaded, when they reload, who waits and who has to go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import aiohttp

from narthex.testing.ollama.command import Start, flash_attention
from narthex.testing.ollama.devices import Device, Engine, system_memory
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.gowords import FOREVER_NS, NS, binary_size
from narthex.testing.ollama.log import Log
from narthex.testing.ollama.manner import Manner
from narthex.testing.ollama.options import Wanted
from narthex.testing.ollama.runner import LoadFailed, Runner, health, is_oom, later
from narthex.testing.ollama.settings import Settings
from narthex.testing.ollama.store import Stored

_LOWER_TIER = {262144: 32768, 32768: 4096}
_FIT_SHARE = 0.8  # of free memory: what a second model may be predicted to take


class Busy(Exception):
    """The queue of requests that need a load is full."""


@dataclass
class Request:
    """One request that needs a runner."""

    stored: Stored
    model: ModelFile
    wanted: Wanted
    keep_alive_ns: int | None
    template: bool
    runner: asyncio.Future[Runner] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Scheduler:
    """Runners are keyed by blob. Loads and evictions happen one at a time, in order of arrival."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        manner: Manner,
        log: Log,
        *,
        devices: tuple[Device, ...],
        limit_mib: int | None = None,
    ) -> None:
        self.engine, self.settings, self.manner, self.log = engine, settings, manner, log
        self.devices, self.limit_mib = devices, limit_mib
        self.loaded: dict[str, Runner] = {}
        self.default_ctx = manner.default_ctx(sum(d.total - settings.gpu_overhead for d in devices))
        self._queue: asyncio.Queue[Request] = asyncio.Queue(settings.max_queue)
        self._unloading: set[asyncio.Task[None]] = set()
        self._worker: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to serve."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End every runner at once."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        await asyncio.gather(*(runner.stop() for runner in self.loaded.values()), *self._unloading)
        self.loaded.clear()

    async def acquire(self, request: Request) -> Runner:
        """A runner for this request, held until :meth:`release`. Raises Busy and LoadFailed."""
        request.wanted = self._adjusted(request)
        runner = self.loaded.get(self._key(request))
        if runner is not None and not await self._needs_reload(runner, request):
            return self._use(runner, request)
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise Busy from None
        try:
            return await request.runner
        except asyncio.CancelledError:
            request.gone.set()
            raise

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
            runner.timer = loop.call_later(runner.session_ns / NS, self._expired, runner)

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

    def _key(self, request: Request) -> str:
        return str(request.model.blob)

    def _adjusted(self, request: Request) -> Wanted:
        """After the rules that come before any comparison."""
        wanted, trained = request.wanted, request.model.context_train
        num_ctx = max(wanted.num_ctx, 4)
        if trained and num_ctx > trained:
            self.log.warn("requested context size too large for model", num_ctx=num_ctx, n_ctx_train=trained)
            num_ctx = trained
        return replace(wanted, num_ctx=num_ctx)

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
        if self._differs(runner, request.wanted):
            return True
        if not runner.alive():
            for _ in range(2):
                words = runner.death()
                number = -(runner.process.returncode or 0) if runner.process else 0
                self.log.warn("llama-server process no longer running", sys=number, string=words)
            return True
        async with aiohttp.ClientSession() as session:
            return await health(session, runner.url) != "ok"

    def _differs(self, runner: Runner, wanted: Wanted) -> bool:
        start, was = runner.start, runner.start.wanted
        automatic = self.manner.era == "F"
        if start.num_ctx != wanted.num_ctx and not (automatic and was.ctx_auto and wanted.ctx_auto):
            return True
        batch = start.num_batch if automatic else was.num_batch
        if batch != wanted.num_batch and not (was.batch_auto and wanted.batch_auto):
            return True
        if wanted.num_gpu >= 0 and wanted.num_gpu != was.num_gpu:
            return True
        if was.use_mmap != wanted.use_mmap and not (start.mmap_off and wanted.use_mmap is None):
            return True
        rest = ("main_gpu", "num_thread", "draft_num_predict", "shift")
        return any(getattr(was, name) != getattr(wanted, name) for name in rest)

    async def _work(self) -> None:
        while True:
            request = await self._queue.get()
            if request.gone.is_set():
                self.log.debug("pending request cancelled or timed out, skipping scheduling")
                continue
            try:
                runner = await self._serve(request)
            except LoadFailed as failed:
                if not request.runner.done():
                    request.runner.set_exception(failed)
                continue
            if request.runner.done():  # the client left in this moment
                self.release(runner)
            else:
                request.runner.set_result(runner)

    async def _serve(self, request: Request) -> Runner:
        """Make room and load, or find that it is loaded by now."""
        while True:
            runner = self.loaded.get(self._key(request))
            if runner is not None:
                if not await self._needs_reload(runner, request):
                    return self._use(runner, request)
                self.log.debug("reloading", runner=str(runner.model.blob))
                await self._evict(runner)
            elif victim := self._in_the_way(request):
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
        predicted = request.model.predicted(request.wanted.num_ctx * self._parallel(request.model))
        free = self._free()
        words = "llama-server model fits alongside existing models"
        too_large = predicted > _FIT_SHARE * free
        if too_large:
            words = "llama-server model predicted to exceed available memory, evicting"
        self.log.info(
            words,
            predicted=binary_size(predicted),
            predicted_num_ctx=request.wanted.num_ctx,
            num_batch=request.wanted.num_batch,
            available=binary_size(free),
            gpu_free=binary_size(free),
            system_free=binary_size(system_memory()[1]),
            system_limited=False,
        )
        return self._victim() if too_large else None

    def _victim(self) -> Runner:
        """The shortest keep-alive first, then by path; an idle one before a busy one."""
        order = sorted(self.loaded.values(), key=lambda runner: (runner.session_ns, str(runner.model.blob)))
        return next((runner for runner in order if runner.refs <= 0), order[0])

    def _free(self) -> int:
        """Bookkeeping, as Ollama does it: what other programs took since is not seen."""
        held = sum(runner.buffers.on_gpu for runner in self.loaded.values())
        return max(min(d.total - held, d.free) for d in self.devices) if self.devices else 0

    def _parallel(self, model: ModelFile) -> int:
        if model.one_slot:
            return 1
        given = self.settings.parallel_given
        return self.settings.num_parallel if given else self.manner.default_parallel

    async def _evict(self, runner: Runner) -> None:
        """Wait until nobody uses it and it is gone."""
        runner.session_ns = 0
        while runner.refs > 0:
            await runner.idle.wait()
        if self.loaded.get(str(runner.model.blob)) is runner:
            self._unload(runner)
        await runner.gone.wait()

    def _expired(self, runner: Runner) -> None:
        if runner.refs <= 0:
            self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        """Take it off the list at once; the process ends in the background."""
        if self.loaded.get(str(runner.model.blob)) is not runner:
            return
        del self.loaded[str(runner.model.blob)]
        if runner.timer is not None:
            runner.timer.cancel()
        task = asyncio.create_task(self._end(runner))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _end(self, runner: Runner) -> None:
        try:
            await runner.stop()
        finally:
            runner.gone.set()

    async def _load_or_retry(self, request: Request) -> Runner:
        """At most one retry: with less context where that was automatic, or with the others unloaded."""
        if self._unloading:
            await asyncio.wait(set(self._unloading))
        try:
            return await self._load(request)
        except LoadFailed as failed:
            lower = _LOWER_TIER.get(request.wanted.num_ctx)
            if not is_oom(str(failed)) or request.gone.is_set():
                raise
            if request.wanted.ctx_auto and lower and self.manner.era == "F":
                self.log.warn(
                    "llama-server load failed; reducing automatic context and retrying once",
                    model=request.model.blob,
                    old_num_ctx=request.wanted.num_ctx,
                    new_num_ctx=lower,
                    error=failed,
                )
                request.wanted = replace(request.wanted, num_ctx=lower)
            elif self.loaded:
                self.log.warn(
                    "llama-server load failed; evicting all other models and retrying once",
                    model=request.model.blob,
                    loaded_count=len(self.loaded),
                    error=failed,
                )
                for runner in list(self.loaded.values()):
                    await self._evict(runner)
            else:
                raise
        return await self._load(request)

    def _start(self, request: Request) -> Start:
        wanted, model = request.wanted, request.model
        parallel = self._parallel(model)
        total = wanted.num_ctx * parallel
        batch = wanted.num_batch
        if wanted.batch_auto:
            batch = self.manner.automatic_batch(total, model.predicted(total), self._free())
            if model.embedding:
                batch = min(2048, wanted.num_ctx)
        return Start(
            wanted=wanted,
            num_ctx=wanted.num_ctx,
            parallel=parallel,
            num_batch=batch,
            mmap_off=wanted.use_mmap is None and (not self.devices or wanted.num_gpu == 0),
            flash_attn=flash_attention(self.settings, self.devices),
            template=request.template,
        )

    async def _load(self, request: Request) -> Runner:
        """Start a runner; a client that leaves meanwhile ends it."""
        start = self._start(request)
        blob, full = request.model.blob, request.stored.name.full
        if start.mmap_off:
            words = "disabling mmap for llama-server load by default"
            self.log.info(words, model=blob, reason="cpu")
        self.log.info("using llama-server for model", model=blob)
        runner = Runner(
            self.engine, request.stored, request.model, start, self.log, has_gpu=bool(self.devices)
        )
        launch = asyncio.create_task(
            runner.launch(
                self.settings, self._environment(), self.limit_mib, lambda: self._tell_memory(runner)
            )
        )
        left = asyncio.create_task(request.gone.wait())
        try:
            await asyncio.wait({launch, left}, return_when=asyncio.FIRST_COMPLETED)
            if not launch.done():
                self.log.warn("client connection closed before llama-server finished loading, aborting load")
                raise LoadFailed("timed out waiting for llama-server to start: context canceled")
            await launch
        except LoadFailed as failed:
            self.log.info("Load failed", model=blob, error=failed)
            raise
        finally:
            for task in (launch, left):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, LoadFailed):
                    await task
        self._tell_loaded(runner, request, full)
        return self._use(runner, request)

    def _tell_memory(self, runner: Runner) -> None:
        total, free, swap = system_memory()
        words = {"total": binary_size(total), "free": binary_size(free), "free_swap": binary_size(swap)}
        self.log.info("system memory", **words)
        for index, device in enumerate(self.devices):
            self.log.info(
                "gpu memory",
                id=index,
                library=device.library,
                available=binary_size(max(device.free - 457 * 2**20, 0)),
                free=binary_size(device.free),
                minimum="457.0 MiB",
                overhead=binary_size(self.settings.gpu_overhead),
            )
        self.log.info("loading model via llama-server", model=runner.model.blob)

    def _tell_loaded(self, runner: Runner, request: Request, full: str) -> None:
        runner.session_ns = self.settings.keep_alive_ns
        self.loaded[str(runner.model.blob)] = runner
        selected = "go_template" if request.template else "none"
        if not request.template and runner.model.chat_template:
            selected = "gguf_chat_template"
        self.log.info("template selection", model=full, selected=selected, renderer="", parser="")
        self.log.info("loaded runners", count=len(self.loaded))
        self.log.info("waiting for llama-server to start responding")
        self.log.info("llama-server started in 0.00 seconds")

    def _environment(self) -> Mapping[str, str]:
        return self.settings.environ
