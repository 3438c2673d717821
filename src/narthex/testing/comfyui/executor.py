"""The one worker of the fake ComfyUI: queue, execution, cache, history, and the memory of its models.

As in ComfyUI, one prompt runs at a time, ``/free`` is acted on between prompts, models stay loaded for ever,
and what did not change is taken from the cache of the prompt before.
"""

from __future__ import annotations

import heapq
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narthex.testing.comfyui.nodes import NODES, Interrupted, compute, in_order, output_ids, signature
from narthex.testing.cuda_memory import CudaMemory

Send = Callable[[str, dict[str, Any], str | None], None]
"""An event, its data, and the client it is for; None for everyone."""


@dataclass(frozen=True)
class Manner:
    """How it works: seconds of one sampler or decoder, bytes of its models and of the work on top, and
    ``fail``: "" for well, else what a sampler's exception says. ``previews``: a picture after each step."""

    work_s: float = 1.0
    model_bytes: int = 64 * 2**20
    work_bytes: int = 32 * 2**20
    fail: str = ""
    previews: bool = False


@dataclass(order=True)
class Prompt:
    """One entry of the queue."""

    number: float
    prompt_id: str = field(compare=False)
    graph: dict[str, Any] = field(compare=False)
    extra: dict[str, Any] = field(compare=False)

    def row(self) -> list[Any]:
        """As ``/queue`` and ``/history`` show it."""
        return [self.number, self.prompt_id, self.graph, self.extra, output_ids(self.graph)]

    @property
    def client(self) -> str | None:
        """Who gets its events."""
        found = self.extra.get("client_id")
        return str(found) if found else None


class Executor:
    """Runs prompts in a thread of its own from :meth:`start` to :meth:`stop`."""

    def __init__(
        self, manner: Manner, folder: Path, send: Send, preview: Callable[[bytes, str | None], None]
    ) -> None:
        self.manner = manner
        self.folder = folder  # «output» and «temp» are below it
        self.history: dict[str, dict[str, Any]] = {}
        self.running: Prompt | None = None
        self.waiting: list[Prompt] = []
        self.held_bytes = 0
        self.interrupted: set[str] = set()
        self._send, self._preview = send, preview
        self._number = 0
        self._free: dict[str, bool] = {}
        self._cache: dict[str, str] = {}  # node id → signature
        self._models: CudaMemory | None = None
        self._saved = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fake-comfyui", daemon=True)

    def start(self) -> None:
        """Take work."""
        self._thread.start()

    def stop(self) -> None:
        """No further prompt is begun; the running one is cut at its next step."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._unload()

    def put(self, prompt_id: str, graph: dict[str, Any], extra: dict[str, Any], front: bool) -> float:
        """Into the queue; returns its number."""
        with self._changed:
            self._number += 1
            number = -self._number if front else self._number
            heapq.heappush(self.waiting, Prompt(number, prompt_id, graph, extra))
            self._changed.notify_all()
        self._status()
        return number

    def drop(self, ids: list[str] | None) -> None:
        """Waiting prompts leave the queue; all of them for None. The running one is not touched."""
        with self._changed:
            self.waiting = [] if ids is None else [each for each in self.waiting if each.prompt_id not in ids]
            heapq.heapify(self.waiting)
        self._status()

    def interrupt(self, prompt_id: str | None) -> None:
        """The running prompt, or for an id only if that one runs."""
        running = self.running
        if running is not None and prompt_id in (None, running.prompt_id):
            self.interrupted.add(running.prompt_id)

    def free(self, unload: bool, forget: bool) -> None:
        """Remember the wish; the worker acts on it once no prompt runs."""
        with self._changed:
            self._free = {"unload": unload or forget, "forget": forget}
            self._changed.notify_all()

    def queue(self) -> dict[str, Any]:
        """As ``GET /queue``."""
        with self._changed:
            running = [self.running.row()] if self.running else []
            return {
                "queue_running": running,
                "queue_pending": [each.row() for each in sorted(self.waiting)],
            }

    def remaining(self) -> int:
        """Running and waiting."""
        with self._changed:
            return len(self.waiting) + (self.running is not None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self.waiting or self._free):
                    self._changed.wait()
                if self._closing:
                    return
                wish, self._free = self._free, {}
                self.running = heapq.heappop(self.waiting) if self.waiting and not wish else None
            if wish:
                self._unload()
                if wish["forget"]:
                    self._cache.clear()
            if self.running is not None:
                self._execute(self.running)

    def _execute(self, prompt: Prompt) -> None:
        messages: list[list[Any]] = []

        def tell(event: str, **data: Any) -> None:
            data = {"prompt_id": prompt.prompt_id, "timestamp": int(time.time() * 1000), **data}
            messages.append([event, data])
            self._send(event, data, prompt.client)

        order = in_order(prompt.graph)
        signatures = {node_id: signature(node_id, prompt.graph) for node_id in order}
        cached = [node_id for node_id in order if self._cache.get(node_id) == signatures[node_id]]
        tell("execution_start")
        tell("execution_cached", nodes=cached)
        outputs: dict[str, Any] = {}
        done: list[str] = []
        well = False
        node_id = ""
        try:
            for node_id in (each for each in order if each not in cached):
                self._send("executing", {"node": node_id, "prompt_id": prompt.prompt_id}, prompt.client)
                output = self._node(prompt, node_id)
                done.append(node_id)
                if output is not None:
                    outputs[node_id] = output
                    data = {"node": node_id, "output": output, "prompt_id": prompt.prompt_id}
                    self._send("executed", data, prompt.client)
            tell("execution_success")
            self._cache, well = signatures, True
        except Interrupted:
            tell(
                "execution_interrupted",
                node_id=node_id,
                node_type=prompt.graph[node_id]["class_type"],
                executed=done,
            )
        except RuntimeError as error:
            tell(
                "execution_error",
                node_id=node_id,
                node_type=prompt.graph[node_id]["class_type"],
                executed=done,
                exception_message=f"{error}\n",
                exception_type="RuntimeError",
                traceback=[],
                current_inputs={},
                current_outputs=[],
            )
        status = {"status_str": "success" if well else "error", "completed": well, "messages": messages}
        with self._changed:
            self.history[prompt.prompt_id] = {
                "prompt": prompt.row(),
                "outputs": outputs,
                "status": status,
                "meta": {},
            }
            self.running = None
        self._status()
        self._send("executing", {"node": None, "prompt_id": prompt.prompt_id}, prompt.client)

    def _node(self, prompt: Prompt, node_id: str) -> dict[str, Any] | None:
        node = prompt.graph[node_id]
        work = NODES[node["class_type"]].work

        def step(value: int) -> None:
            if self._closing or prompt.prompt_id in self.interrupted:
                raise Interrupted
            data = {"value": value, "max": steps, "prompt_id": prompt.prompt_id, "node": node_id}
            self._send("progress", data, prompt.client)
            if self.manner.previews:
                self._preview(png(), prompt.client)

        steps = int(node.get("inputs", {}).get("steps", 4))
        if work == "load":
            self._load()
        elif work in ("sample", "decode"):
            self._load()
            on_top = CudaMemory(self.manner.work_bytes)
            self.held_bytes += self.manner.work_bytes
            try:
                compute(self.manner.work_s / 2, steps, step)
                if self.manner.fail:
                    raise RuntimeError(self.manner.fail)
            finally:
                self.held_bytes -= self.manner.work_bytes
                on_top.close()
        elif work == "save":
            return self._save(node)
        return None

    def _save(self, node: dict[str, Any]) -> dict[str, Any]:
        preview = node["class_type"] == "PreviewImage"
        kind = "temp" if preview else "output"
        prefix = "ComfyUI_temp" if preview else node["inputs"]["filename_prefix"]
        self._saved += 1
        name = f"{prefix}_{self._saved:05}_.png"
        (self.folder / kind).mkdir(parents=True, exist_ok=True)
        (self.folder / kind / name).write_bytes(png())
        return {"images": [{"filename": name, "subfolder": "", "type": kind}]}

    def _load(self) -> None:
        if self._models is None:
            self._models = CudaMemory(self.manner.model_bytes)
            self.held_bytes += self.manner.model_bytes

    def _unload(self) -> None:
        if self._models is not None:
            self._models.close()
            self._models = None
            self.held_bytes -= self.manner.model_bytes

    def _status(self) -> None:
        self._send("status", {"status": {"exec_info": {"queue_remaining": self.remaining()}}}, None)


def png() -> bytes:
    """A picture of one black pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
