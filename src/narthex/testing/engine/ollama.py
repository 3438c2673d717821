"""The fake Ollama: its routes, and a scheduler that keeps what fits and lets go of what was idle longest.

Like the real one it loads one model at a time and everything else waits behind that; it ends a load whose
client leaves; another num_ctx, num_gpu or num_batch is another load; and it lists a runner that died until
somebody asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from narthex.testing.engine.answers import embedding, ollama_error, script
from narthex.testing.engine.card import Card
from narthex.testing.engine.generation import Generation
from narthex.testing.engine.manner import Scene, read_scene, words_of
from narthex.testing.engine.ollama_models import DEFAULT_CTX, as_json, full, models_of, seconds
from narthex.testing.engine.ollama_runner import Runner, RunnerFailed
from narthex.testing.engine.record import Record
from narthex.testing.engine.wire import Exchange, Wire, whole

_KINDS = {
    "/api/chat": "chat",
    "/api/generate": "generate",
    "/v1/chat/completions": "v1chat",
    "/v1/completions": "v1completion",
    "/api/embed": "embed",
    "/api/embeddings": "embeddings",
    "/v1/embeddings": "v1embeddings",
}
_RELOADS = ("num_ctx", "num_gpu", "num_batch", "num_thread", "use_mmap", "main_gpu")
_KEEP_S = 300.0
_BROKEN = "an error was encountered while running the model: unexpected EOF"
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


class Asked(NamedTuple):
    """One request for a model, understood."""

    model: str
    stream: bool
    options: dict[str, Any]
    keep_s: float | None
    empty: bool
    truncate: bool
    inputs: int
    usage: bool
    words: dict[str, float]


@lru_cache(maxsize=256)
def understood(kind: str, body: bytes) -> Asked:
    """Raises ValueError for what is no JSON object."""
    found = json.loads(body)
    openai = kind.startswith("v1")
    content = found.get("messages" if "chat" in kind else "prompt")
    inputs = found.get("input", "")
    return Asked(
        model=full(str(found.get("model", ""))),
        stream=bool(found.get("stream", not openai)),
        options={key: value for key, value in (found.get("options") or {}).items() if key in _RELOADS},
        keep_s=seconds(found.get("keep_alive")),
        empty=not openai and not content and kind in {"chat", "generate"},
        truncate=bool(found.get("truncate", True)),
        inputs=len(inputs) if isinstance(inputs, list) else 1,
        usage=bool((found.get("stream_options") or {}).get("include_usage")),
        words=words_of(body),
    )


class Ollama:
    """One server."""

    def __init__(self, path: Path, program: str) -> None:
        self._path, self._program = path, program
        self.scene: Scene = read_scene(path)
        self.card = Card(self.scene.card) if self.scene.card else None
        self.record = Record(self.scene.record)
        self.slots = int(os.environ.get("OLLAMA_NUM_PARALLEL", "1"))
        self.runners: dict[str, Runner] = {}
        self._models = models_of(self.scene)
        self._scheduler = asyncio.Lock()
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # requests

    def answer(self, exchange: Exchange) -> None:
        """Every request comes here."""
        kind = _KINDS.get(exchange.path)
        if kind is None or exchange.method != "POST":
            return exchange.reply(self._told(exchange))
        try:
            asked = understood(kind, exchange.body)
        except (ValueError, AttributeError):
            return exchange.reply(ollama_error(400, "invalid character in request body"))
        runner = self.runners.get(asked.model)
        if runner is not None and runner.alive and not runner.leaving and _same(runner, asked):
            return self._begin(exchange, kind, asked, runner)
        task = self._task(self._load_and_begin(exchange, kind, asked))
        exchange.left = lambda: self._left(task, asked)
        return None

    def over(self, generation: Generation, how: str) -> None:
        """An answer ended: the next may have its slot, and the runner may be idle."""
        runner = next((each for each in self.runners.values() if generation in each.running), None)
        waits = next((each for each in self.runners.values() if generation in each.waiting), None)
        if how != "done":
            held = runner or waits
            name = held.model.name if held else ""
            self.record.add("gone" if how == "left" else "fault", model=name, how=how)
        if waits is not None:
            waits.waiting.remove(generation)
            self._used(waits)
        if runner is not None:
            runner.running.discard(generation)
            self._used(runner)
            if runner.waiting and len(runner.running) < runner.slots:
                following = runner.waiting.popleft()
                runner.running.add(following)
                following.start()

    def fail(self, generation: Generation, fault: str) -> None:
        """The runner ends in the middle of an answer; its watch tells all who were waiting."""
        runner = next(each for each in self.runners.values() if generation in each.running)
        if fault == "oom":
            sys.stderr.write("CUDA error: out of memory\n")
        runner.kill(signal.SIGKILL if fault == "die" else signal.SIGABRT)

    def _begin(self, exchange: Exchange, kind: str, asked: Asked, runner: Runner) -> None:
        runner.keep_s = _KEEP_S if asked.keep_s is None else asked.keep_s
        runner.users += 1
        model = runner.model.name
        if asked.empty:
            exchange.reply(self._loaded_only(kind, asked))
            return self._used(runner)
        if kind in {"embed", "embeddings", "v1embeddings"}:
            exchange.reply(embedding(kind, model, asked.inputs))
            return self._used(runner)
        prompt = len(exchange.body) // 4
        if prompt > runner.num_ctx and not asked.truncate:
            exchange.reply(ollama_error(400, _TOO_LONG))
            return self._used(runner)
        openai = kind.startswith("v1")
        generation = Generation(
            exchange,
            script(
                kind, model, int(asked.words.get("tokens", runner.model.manner.tokens)), prompt, asked.usage
            ),
            self,
            manner=runner.model.manner,
            words=asked.words,
            stream=asked.stream,
            refused=lambda status: ollama_error(status, "an error was encountered", openai=openai),
        )
        if len(runner.running) < runner.slots:
            runner.running.add(generation)
            generation.start()
        else:
            runner.waiting.append(generation)
        return None

    async def _load_and_begin(self, exchange: Exchange, kind: str, asked: Asked) -> None:
        openai = kind.startswith("v1")
        if asked.model not in self._models:
            words = f"model '{asked.model}' not found"
            return exchange.reply(ollama_error(404, words, openai=openai))
        if asked.empty and asked.keep_s == 0:
            await self._unload(asked.model)
            return exchange.reply(self._loaded_only(kind, asked))
        try:
            runner = await self._runner(asked)
        except RunnerFailed as failed:
            return exchange.reply(ollama_error(500, str(failed), openai=openai))
        exchange.left = None
        return self._begin(exchange, kind, asked, runner)

    def _loaded_only(self, kind: str, asked: Asked) -> bytes:
        said = {"message": {"role": "assistant", "content": ""}} if kind == "chat" else {"response": ""}
        reason = "unload" if asked.keep_s == 0 else "load"
        row = {"model": asked.model, "created_at": "2026-09-21T13:33:20Z", **said}
        return whole(as_json({**row, "done": True, "done_reason": reason}))

    def _left(self, task: asyncio.Task[None], asked: Asked) -> None:
        self.record.add("gone", model=asked.model, how="loading")
        task.cancel()

    # the scheduler

    async def _runner(self, asked: Asked) -> Runner:
        """One that fits the request, loaded where it is not. Raises RunnerFailed."""
        async with self._scheduler:
            runner = self.runners.get(asked.model)
            if runner is not None and runner.alive and not runner.leaving and _same(runner, asked):
                return runner
            if runner is not None:
                await self._idle(runner)
                await self._stop(runner)
            self.scene = read_scene(self._path)
            self._models |= models_of(self.scene)
            model = self._models[asked.model]
            if model.manner.load_fault == "500":
                raise RunnerFailed("llama-server process has terminated: exit status 2")
            num_ctx = int(asked.options.get("num_ctx", DEFAULT_CTX))
            new = Runner(model, _settings(asked), num_ctx, self.slots)
            await self._make_room(model.manner.vram(num_ctx * self.slots, model.file_bytes))
            self.record.add("load", model=model.name, ctx=num_ctx)
            await new.start(self.scene, self._program)
            self.record.add("loaded", model=model.name)
            self.runners[asked.model] = new
            self._task(self._watch(new))
            self._arm(new)
            return new

    async def _make_room(self, need: int) -> None:
        """Idle ones go, the one first that was idle longest, and busy ones are waited for. What never fits is
        tried all the same: the card refuses."""
        while self.runners:
            fits = self.card is None or await asyncio.to_thread(self.card.free) >= need
            if fits and len(self.runners) < self.scene.most_loaded:
                return
            idle = [runner for runner in self.runners.values() if not runner.users]
            if idle:
                await self._stop(min(idle, key=lambda runner: runner.last_used))
            else:
                self._freed.clear()
                await self._freed.wait()

    async def _unload(self, name: str) -> None:
        runner = self.runners.get(name)
        if runner is not None:
            runner.keep_s = 0.0
            self._used(runner, 0)

    async def _idle(self, runner: Runner) -> None:
        while runner.users and runner.alive:
            self._freed.clear()
            await self._freed.wait()

    async def _stop(self, runner: Runner) -> None:
        await runner.stop()
        if self.runners.get(runner.model.name) is runner:
            del self.runners[runner.model.name]
            self.record.add("unloaded", model=runner.model.name)
        self._freed.set()

    async def _watch(self, runner: Runner) -> None:
        """Its end without our doing breaks off all its answers; it stays on the list."""
        await runner.ended()
        if runner.leaving:
            return
        self.record.add("runner died", model=runner.model.name)
        cut = [*runner.running, *runner.waiting]
        runner.running.clear()
        runner.waiting.clear()
        runner.users = 0
        for generation in cut:
            generation.broken(ollama_error(500, _BROKEN))
        self._freed.set()

    def _used(self, runner: Runner, fewer: int = 1) -> None:
        runner.users = max(0, runner.users - fewer)
        runner.last_used = asyncio.get_running_loop().time()
        if not runner.users:
            self._freed.set()
            self._arm(runner)

    def _arm(self, runner: Runner) -> None:
        """Let it go once it was idle for its keep_alive."""
        if runner.expiry is not None:
            runner.expiry.cancel()
            runner.expiry = None
        if not runner.users and runner.keep_s != float("inf") and not runner.leaving:
            loop = asyncio.get_running_loop()
            runner.expiry = loop.call_later(runner.keep_s, self._expired, runner)

    def _expired(self, runner: Runner) -> None:
        if not runner.users and not runner.leaving:
            runner.leaving = True
            self._task(self._stop(runner))

    # the rest

    def _told(self, exchange: Exchange) -> bytes:
        path = exchange.path
        if path == "/":
            return whole(b"Ollama is running", kind="text/plain; charset=utf-8")
        if path == "/api/show":
            return self._shown(exchange.body)
        rows: dict[str, Any]
        if path == "/api/version":
            rows = {"version": self.scene.version}
        elif path == "/api/tags":
            rows = {"models": [model.tag() for model in self._models.values()]}
        elif path == "/api/ps":
            rows = {"models": [self._resident(runner) for runner in self.runners.values()]}
        elif path == "/v1/models":
            row = {"object": "model", "created": 1, "owned_by": "library"}
            rows = {"object": "list", "data": [{"id": name, **row} for name in self._models]}
        else:
            return whole(b"404 page not found", 404, "text/plain")
        return whole(as_json(rows))

    def _shown(self, body: bytes) -> bytes:
        found = json.loads(body or b"{}")
        name = full(str(found.get("model") or found.get("name") or ""))
        model = self._models.get(name)
        return whole(as_json(model.show())) if model else ollama_error(404, f"model '{name}' not found")

    def _resident(self, runner: Runner) -> dict[str, Any]:
        passed = asyncio.get_running_loop().time() - runner.last_used
        return runner.model.resident(runner.num_ctx, runner.size, runner.keep_s - passed)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def head(self, port: int) -> str:
        """The log's first lines."""
        begun = "time=2026-09-21T13:33:20.123Z level=INFO source="
        total = f"{(self.card.total() if self.card else 0) / 2**30:.1f} GiB"
        lines = [
            f'{begun}routes.go:1951 msg="server config" env="map[OLLAMA_HOST:http://127.0.0.1:{port} '
            f'OLLAMA_MAX_LOADED_MODELS:{self.scene.most_loaded} OLLAMA_NUM_PARALLEL:{self.slots}]"',
            f'{begun}routes.go:2008 msg="Listening on 127.0.0.1:{port} (version {self.scene.version})"',
        ]
        if self.card is not None:
            lines.append(
                f'{begun}types.go:50 msg="inference compute" id=GPU-1 filter_id="" library=CUDA compute=8.6 '
                f'name=CUDA0 description="NVIDIA Fake" libdirs=ollama,cuda_v13 driver=13.0 '
                f'pci_id=0000:01:00.0 type=discrete total="{total}" available="{total}"'
            )
        return "".join(f"{line}\n" for line in lines)


def _settings(asked: Asked) -> dict[str, Any]:
    return {"num_ctx": DEFAULT_CTX, **asked.options}


def _same(runner: Runner, asked: Asked) -> bool:
    """A load that asks for nothing takes the defaults, and they are compared, too."""
    return runner.options == _settings(asked)


async def serve(path: Path, port: int, program: str, *, with_parent: bool) -> None:
    """Until SIGTERM; with ``with_parent`` also until standard input is closed."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    ollama = Ollama(path, program)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        loop.add_reader(0, lambda: None if os.read(0, 64) else stop.set())
    sys.stderr.write(ollama.head(port))
    sys.stderr.flush()
    await loop.create_server(lambda: Wire(ollama.answer), "127.0.0.1", port, backlog=1024)
    await stop.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.gather(*(runner.stop() for runner in ollama.runners.values()))
    os._exit(0)
