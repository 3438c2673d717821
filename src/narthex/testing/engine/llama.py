"""The fake llama-server: a command line, a load that takes card and time, and its routes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from narthex.testing.engine import llama_words as words
from narthex.testing.engine.answers import embedding, llama_error, script
from narthex.testing.engine.card import Card
from narthex.testing.engine.generation import Generation
from narthex.testing.engine.manner import Scene, words_of
from narthex.testing.engine.record import Record
from narthex.testing.engine.wire import Exchange, Wire, whole

_DOT_S = 0.25
_VALUES = {
    "-m": "model", "--model": "model", "--port": "port", "-c": "ctx", "--ctx-size": "ctx",
    "-np": "slots", "--parallel": "slots", "-ngl": "layers", "--n-gpu-layers": "layers",
    "--gpu-layers": "layers", "-ub": "ubatch", "--ubatch-size": "ubatch", "--host": "host", "-a": "alias",
    "--alias": "alias",
}  # fmt: skip
_KINDS = {
    "/v1/chat/completions": "v1chat",
    "/chat/completions": "v1chat",
    "/v1/completions": "v1completion",
    "/completions": "v1completion",
    "/completion": "completion",
}
_EMBEDDINGS = {"/v1/embeddings", "/embeddings", "/embedding"}


@dataclass
class Options:
    """What the command line says. ``layers`` None: all of them."""

    model: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    ctx: int = 4096
    slots: int = 1
    layers: int | None = None
    ubatch: int = 512
    alias: str = ""
    with_parent: bool = False


def read_options(arguments: Iterable[str]) -> Options:
    """Flags that it does not know are left out, with or without a value."""
    options, rest = Options(), deque(arguments)
    while rest:
        word = rest.popleft()
        if word == "--with-parent":
            options.with_parent = True
        elif (name := _VALUES.get(word)) is not None and rest:
            value = rest.popleft()
            if name in {"model", "host", "alias"}:
                setattr(options, name, value)
            elif value.lstrip("-").isdecimal():
                setattr(options, name, int(value))
    return options


def answer_about(arguments: list[str], scene: Scene) -> str | None:
    """What ``--version``, ``--help`` and ``--list-devices`` print; None where it is to serve."""
    if "--version" in arguments:
        return words.VERSION
    if "--help" in arguments or "-h" in arguments:
        return words.HELP
    if "--list-devices" in arguments:
        card = Card(scene.card) if scene.card else None
        return words.devices(card.total() if card else 0, card.free() if card else 0)
    return None


class LlamaServer:
    """One process, one model."""

    def __init__(self, options: Options, scene: Scene) -> None:
        self.options, self.stem = options, options.alias or Path(options.model).stem
        self.manner = scene.of(self.stem)
        self.card = Card(scene.card) if scene.card else None
        self.record = Record(scene.record)
        self.name = options.alias or Path(options.model).name
        self.ready = False
        self._begun = time.monotonic()
        self._seen = 0
        self._running: set[Generation] = set()
        self._waiting: deque[Generation] = deque()

    async def serve(self) -> None:
        """Bind, load, answer, until a signal ends the process."""
        loop = asyncio.get_running_loop()
        self.record.add("start", model=self.stem, ctx=self.options.ctx)
        if self.manner.load_fault != "wedge":
            loop.add_signal_handler(signal.SIGTERM, self._end)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.options.with_parent:
            loop.add_reader(0, self._parent)
        try:
            await loop.create_server(
                lambda: Wire(self.answer), self.options.host, self.options.port, backlog=1024
            )
        except OSError:
            self._fails([f"srv  start: couldn't bind HTTP server socket, port: {self.options.port}"])
        if self.manner.load_fault not in {"wedge", "hang"}:
            await self._load()
        await asyncio.Event().wait()

    # the load

    async def _load(self) -> None:
        manner, options = self.manner, self.options
        _say(words.begins(options.model, manner))
        share = 1.0 if options.layers is None else min(1.0, max(0, options.layers) / manner.layers)
        model = manner.model_bytes
        if model is None:
            model = Path(options.model).stat().st_size if Path(options.model).exists() else 0
        on_card = int(model * share)
        cache = manner.token_bytes * options.ctx
        if manner.load_fault:
            await asyncio.sleep(manner.load_s)
            self._load_fails(on_card)
        if not self._take(on_card + (manner.beside_bytes if share else 0)):
            self._fails(words.no_room(options.model, on_card, cache=False))
        _say(words.weights(on_card, model - on_card, round(share * manner.layers), manner.layers))
        until = self._begun + manner.load_s
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _DOT_S))
            sys.stdout.write(".")
            sys.stdout.flush()
        if share and not self._take(cache + manner.compute_bytes):
            self._fails(["", *words.no_room(options.model, cache or manner.compute_bytes, cache=True)])
        _say(
            [
                "",
                *words.context(
                    options.ctx, options.slots, options.ubatch, cache, manner.compute_bytes, card=share > 0
                ),
            ]
        )
        self.ready = True
        self.record.add("ready", model=self.stem)
        _say(words.listens(options.port, options.ctx, options.slots))

    def _take(self, count: int) -> bool:
        return self.card is None or not count or self.card.take(count)

    def _load_fails(self, on_card: int) -> None:
        fault = self.manner.load_fault
        if fault == "die":
            self._dies(signal.SIGKILL)
        if fault == "abort":
            _say([words.ASSERT])
            self._dies(signal.SIGABRT)
        if fault == "corrupt":
            self._fails(words.corrupt(self.options.model))
        self._fails([] if fault == "silent" else words.no_room(self.options.model, on_card, cache=False))

    def _fails(self, lines: list[str]) -> None:
        self.record.add("failed", model=self.stem)
        _say(lines)
        os._exit(1)

    def _dies(self, number: int) -> None:
        self.record.add("died", model=self.stem, signal=int(number))
        os.kill(os.getpid(), number)
        time.sleep(60)

    # requests

    def answer(self, exchange: Exchange) -> None:
        """Every request comes here."""
        path = exchange.path
        if not self.ready:
            exchange.reply(_LOADING)
        elif (kind := _KINDS.get(path)) is not None:
            self._generate(exchange, kind)
        elif path in _EMBEDDINGS:
            found = json.loads(exchange.body or b"{}").get("input", "")
            exchange.reply(embedding("v1embeddings", self.name, len(found) if isinstance(found, list) else 1))
        else:
            exchange.reply(self._told(path))

    def over(self, generation: Generation, how: str) -> None:
        """An answer ended: the next may have its slot."""
        if how != "done":
            self.record.add("gone" if how == "left" else "fault", model=self.stem, how=how)
        self._running.discard(generation)
        if generation in self._waiting:
            self._waiting.remove(generation)
        while self._waiting and len(self._running) < self.options.slots:
            self._start(self._waiting.popleft())

    def fail(self, generation: Generation, fault: str) -> None:
        """The process ends in the middle of an answer."""
        if fault == "oom":
            _say(words.NO_ROOM_TO_COMPUTE)
        elif fault == "abort":
            _say([words.ASSERT])
        self._dies(signal.SIGKILL if fault == "die" else signal.SIGABRT)

    def _generate(self, exchange: Exchange, kind: str) -> None:
        self._seen += 1
        if self._seen == self.manner.die_at:
            self._dies(signal.SIGKILL)
        body = exchange.body
        prompt, limit = len(body) // 4, self.options.ctx // self.options.slots
        if prompt > limit:
            text = f"request ({prompt} tokens) exceeds the available context size ({limit} tokens)"
            text += ", try increasing it"
            figures = {"n_prompt_tokens": prompt, "n_ctx": limit}
            return exchange.reply(llama_error(400, text, "exceed_context_size_error", **figures))
        said = words_of(body)
        stream = b'"stream":true' in body or b'"stream": true' in body
        usage = b'"include_usage":true' in body or b'"include_usage": true' in body
        tokens = int(said.get("tokens", self.manner.tokens))
        generation = Generation(
            exchange,
            script(kind, self.name, tokens, prompt, usage),
            self,
            manner=self.manner,
            words=said,
            stream=stream,
            refused=lambda status: llama_error(status, "Compute error."),
        )
        if len(self._running) < self.options.slots:
            self._start(generation)
        else:
            self._waiting.append(generation)

    def _start(self, generation: Generation) -> None:
        if self._seen == 1:
            self.record.add("first request", model=self.stem)
        self._running.add(generation)
        generation.start()

    def _told(self, path: str) -> bytes:
        slot = self.options.ctx // self.options.slots
        if path == "/health":
            return _OK
        if path in {"/v1/models", "/models"}:
            row = {"id": self.name, "object": "model", "created": 1, "owned_by": "llamacpp"}
            return _answer({"object": "list", "data": [row]})
        if path == "/slots":
            busy = len(self._running)
            rows = [{"id": at, "n_ctx": slot, "is_processing": at < busy} for at in range(self.options.slots)]
            return whole(json.dumps(rows).encode())
        if path == "/props":
            settings = {"n_ctx": slot, "params": {}}
            props = {"default_generation_settings": settings, "total_slots": self.options.slots}
            return _answer({**props, "model_path": self.options.model, "build_info": "b7000-fa4ee12"})
        if path == "/tokenize":
            return _answer({"tokens": [1, 2, 3]})
        return llama_error(404, "File Not Found", "not_found_error")

    def _parent(self) -> None:
        if not os.read(0, 64):
            os._exit(0)

    def _end(self) -> None:
        self.record.add("stop", model=self.stem)
        _say(["srv    operator(): operator(): cleaning up before exit..."])
        if self.manner.unload_s:
            time.sleep(self.manner.unload_s)
        self.record.add("stopped", model=self.stem)
        os._exit(0)


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _answer(found: dict[str, object]) -> bytes:
    return whole(json.dumps(found).encode())


_OK = _answer({"status": "ok"})
_LOADING = llama_error(503, "Loading model", "unavailable_error")
