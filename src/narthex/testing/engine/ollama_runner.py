"""``Runner``: a model that the fake Ollama has loaded: a process that holds its part of the card."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

from narthex.testing.engine.generation import Generation
from narthex.testing.engine.manner import Scene
from narthex.testing.engine.ollama_models import Model

_LAST = 40  # lines of its output that are kept
_PATIENCE_S = 5.0
_TELLING = ("cudaMalloc failed", "GGML_ASSERT", "error loading model")


class RunnerFailed(Exception):
    """It ended before it was ready; the text is what Ollama says."""


class Runner:
    """Begun with :meth:`start`; ``waiting`` are generations that have no slot yet."""

    def __init__(self, model: Model, options: dict[str, Any], num_ctx: int, slots: int) -> None:
        self.model, self.options, self.num_ctx, self.slots = model, options, num_ctx, slots
        self.users = 0
        self.running: set[Generation] = set()
        self.waiting: deque[Generation] = deque()
        self.keep_s = 300.0
        self.expiry: asyncio.TimerHandle | None = None
        self.last_used = 0.0
        self.leaving = False
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=_LAST)
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def size(self) -> int:
        """What Ollama tells of it, which leaves out what lies beside the buffers."""
        manner = self.model.manner
        return manner.vram(self.num_ctx, self.model.file_bytes) - manner.beside_bytes

    async def start(self, scene: Scene, program: str) -> None:
        """Returns once it is ready. Raises RunnerFailed. Cancelling it ends the load."""
        words = ["--model", self.model.blob, "--alias", self.model.name, "--port", "0", "--with-parent"]
        words += ["-c", str(self.num_ctx * self.slots), "-np", str(self.slots), "--scene", str(scene.path)]
        # A runner is known by the name in its command line; without it Python finds its library by HOME.
        self._process = await asyncio.create_subprocess_exec(
            str(Path(BIN) / "llama-server"),
            "-S",
            "-c",
            program,
            *words,
            executable=sys.executable,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        begun = "time=2026-09-21T13:33:20.123Z level=INFO source=llama_server.go:433"
        shown = f"{BIN}/llama-server {' '.join(words[:2])} -c {self.num_ctx}"
        sys.stderr.write(f'{begun} msg="starting llama-server" cmd="{shown}"\n')
        self._reader = asyncio.create_task(self._read())
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.is_set():
                await self._reader
                raise RunnerFailed(self._words())
        except BaseException:
            self.kill()
            raise
        finally:
            ready.cancel()
            ended.add_done_callback(lambda _: None)

    async def ended(self) -> None:
        """Returns once its process is gone."""
        assert self._process is not None
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, after a while SIGKILL, and until it is gone."""
        self.leaving = True
        if self.expiry is not None:
            self.expiry.cancel()
        if self.alive:
            assert self._process is not None
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), self.model.manner.unload_s + _PATIENCE_S)
            except TimeoutError:
                self.kill()
                await self._process.wait()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """At once."""
        if self.alive:
            assert self._process is not None
            self._process.send_signal(number)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode("utf-8", "replace")
            sys.stderr.write(line)
            self._lines.append(line.strip())
            if "server is listening on" in line:
                self._ready.set()

    def _words(self) -> str:
        assert self._process is not None
        told = next((line for line in self._lines for word in _TELLING if word in line), "")
        if "cudaMalloc failed" in told:
            told = "cudaMalloc failed: out of memory"
        code = self._process.returncode or 0
        how = (
            f"signal: {signal.Signals(-code).name.removeprefix('SIG').lower()}"
            if code < 0
            else f"exit status {code}"
        )
        how = {"signal: kill": "signal: killed", "signal: abrt": "signal: aborted"}.get(how, how)
        return f"llama-server process has terminated: {how}" + (f": {told}" if told else "")


BIN = "/usr/local/lib/ollama"
