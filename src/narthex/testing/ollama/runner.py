"""``Runner``: one real llama-server process and everything Ollama keeps about it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from narthex.testing.ollama.buffers import Buffers, read_buffers
from narthex.testing.ollama.command import Start, command_line, without_prefix
from narthex.testing.ollama.devices import Engine
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.gowords import FOREVER_NS, NS
from narthex.testing.ollama.log import Log
from narthex.testing.ollama.settings import Settings
from narthex.testing.ollama.store import Stored

POLL_S = 0.25  # Ollama's own grain of load times
OOM = (
    "out of memory",
    "out of device memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "allocation failed",
    "not enough memory",
    "insufficient memory",
    "vk_error_out_of_device_memory",
    "erroroutofmemory",
)
_ERROR = re.compile(r"error:|CUDA error|error loading model|GGML_ASSERT|llama_init_from_model: ")
_SIGNALS = {signal.SIGKILL: "killed", signal.SIGABRT: "aborted", signal.SIGILL: "illegal instruction"}
_CRASHES = (-signal.SIGILL, -signal.SIGSEGV)
_PR_SET_PDEATHSIG = 1


class LoadFailed(Exception):
    """The runner did not become ready; the text is what the API answers."""


def is_oom(text: str) -> bool:
    """Whether Ollama takes a text for one about memory."""
    return any(word in text.lower() for word in OOM)


def captured(line: str) -> str | None:
    """The part of a runner's line that goes into error texts, None for most lines."""
    if is_oom(line):
        return line
    found = _ERROR.search(line)
    return line[found.start() :] if found else None


class Runner:
    """A runner and its state in the scheduler. Times are nanoseconds of the wall clock."""

    def __init__(
        self, engine: Engine, stored: Stored, model: ModelFile, start: Start, log: Log, *, has_gpu: bool
    ) -> None:
        self.engine, self.stored, self.model, self.start, self.log = engine, stored, model, start, log
        self.has_gpu = has_gpu
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []
        self.status: list[str] = []  # lines that error texts are made of
        self.last_output = 0.0
        self.buffers = Buffers()
        self.ready = False
        self.refs = 0
        self.session_ns = 0
        self.expires_ns = 0  # 0: never idle yet
        self.timer: asyncio.TimerHandle | None = None
        self.idle = asyncio.Event()
        self.gone = asyncio.Event()
        self.leaving = False
        self.slots = asyncio.Semaphore(start.parallel)
        self.limit_mib: int | None = None
        self._relay: asyncio.Task[None] | None = None
        self._exit: asyncio.Task[int] | None = None

    @property
    def url(self) -> str:
        """Of the llama-server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the llama-server."""
        return self.process.pid if self.process else 0

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process is not None and self.process.returncode is None

    def shown_expiry(self) -> int:
        """``expires_at``: while it was never idle it moves with every look."""
        return self.expires_ns or later(self.session_ns)

    async def launch(
        self, settings: Settings, env: Mapping[str, str], limit_mib: int | None, before: Callable[[], None]
    ) -> None:
        """Start and wait until it answers. Raises LoadFailed; a cancelled wait ends the process."""
        environ = {**env, "GGML_NO_BACKTRACE": "1"}
        self.limit_mib = limit_mib
        try:
            try:
                await self._try(settings, environ, before)
            except LoadFailed:
                crashed = self.process is not None and self.process.returncode in _CRASHES
                if not crashed or "--no-repack" not in self.engine.flags or "LLAMA_ARG_NO_REPACK" in environ:
                    raise
                # Some builds crash in their repacked kernels on CPUs with AMX; Ollama's own does not.
                await self._try(settings, {**environ, "LLAMA_ARG_NO_REPACK": "1"}, before)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGKILL, as Ollama does it, and until the process is gone."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        if self._exit is not None:
            await self._exit
        if self._relay is not None:
            await self._relay

    def death(self) -> str:
        """How it ended: ``exit status 1``, ``signal: killed``."""
        code = self.process.returncode if self.process else None
        return exit_words(code)

    async def _try(self, settings: Settings, env: Mapping[str, str], before: Callable[[], None]) -> None:
        self.port = free_port()
        self.lines, self.status = [], []
        words = command_line(self.engine, self.model, self.start, settings, self.port)
        self.log.info("starting llama-server", cmd=" ".join(words))
        started = time.monotonic()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *words,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=_dies_with_us(self.limit_mib),
                limit=2**22,
            )
        except OSError as error:
            raise LoadFailed(f"error starting llama-server: {error}") from None
        self._relay = asyncio.create_task(self._read_output())
        self._exit = asyncio.create_task(self.process.wait())
        before()
        await self._until_ready(settings, started)
        self.log.info(f"llama-server started in {time.monotonic() - started:.2f} seconds")
        self.buffers = read_buffers(self.lines)
        self.ready = True

    async def _read_output(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            line = without_prefix(data.decode("utf-8", "replace").rstrip("\r\n"))
            self.last_output = time.monotonic()
            if not self.has_gpu and line.startswith("load_tensors: offload"):
                continue  # builds with Vulkan or RPC say so without a device, too; Ollama's own do not
            self.log.raw(line)
            if not self.ready:
                self.lines.append(line)
            if words := captured(line):
                self.status = [*self.status, words][-64:]

    async def _until_ready(self, settings: Settings, started: float) -> None:
        assert self._exit is not None
        self.log.info("waiting for llama-server to start responding")
        told, self.last_output = "", time.monotonic()
        async with aiohttp.ClientSession() as session:
            while True:
                state = await health(session, self.url)
                if state == "ok" and self.alive():
                    return
                words = "llm server loading model" if state == "loading" else "llm server not responding"
                if words != told and self.alive():
                    told, self.last_output = words, time.monotonic()
                    self.log.info("waiting for llama-server to become available", status=words)
                done, _ = await asyncio.wait({self._exit}, timeout=POLL_S)
                if done:
                    raise LoadFailed(await self._why_it_ended())
                silent = time.monotonic() - self.last_output
                if settings.load_timeout_ns < FOREVER_NS and silent > settings.load_timeout_ns / NS:
                    said = self.status[-1] if self.status else ""
                    raise LoadFailed(f"timed out waiting for llama-server to start - {said}")

    async def _why_it_ended(self) -> str:
        assert self._relay is not None
        await self._relay
        code = self.process.returncode if self.process else None
        words, said = self.death(), "\n".join(self.status)
        if said or code:
            number = code if code is not None and code >= 0 else "unknown"
            if said or number != "unknown":
                self.log.error("llama-server terminated", error=words, exit=number)
        if code is not None and code < 0 and said:
            return f"llama-server process has terminated: {said}: {said}"
        return f"llama-server process has terminated: {words}" + (f": {said}" if said else "")


async def health(session: aiohttp.ClientSession, url: str, timeout_s: float = 10.0) -> str:
    """``ok``, ``loading``, or ``gone`` where nobody answers."""
    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(timeout_s)) as reply:
            return "ok" if reply.status == 200 else "loading"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return "gone"


def exit_words(code: int | None) -> str:
    """As Go names the end of a process."""
    if code is not None and code < 0:
        name = _SIGNALS.get(signal.Signals(-code)) or signal.strsignal(-code) or str(-code)
        return f"signal: {name.lower()}"
    return f"exit status {code}"


def later(ns: int) -> int:
    """Now and a duration, bounded as Go bounds it."""
    return time.time_ns() + min(ns, FOREVER_NS)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _dies_with_us(limit_mib: int | None) -> Callable[[], Any]:
    """For the child, before it becomes the engine: a memory limit, and an end when we end."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if limit_mib is not None:
            size = limit_mib * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return prepare
