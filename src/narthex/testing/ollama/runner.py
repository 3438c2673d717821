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

import aiohttp

from narthex.testing.ollama.buffers import Buffers, read_buffers
from narthex.testing.ollama.command import Start, command_line, without_prefix
from narthex.testing.ollama.devices import Device, Engine
from narthex.testing.ollama.era_words import EraWords
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.gowords import FOREVER_NS, NS
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
_SIGNALS = {
    signal.SIGKILL: "killed",
    signal.SIGABRT: "aborted",
    signal.SIGILL: "illegal instruction",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGTERM: "terminated",
}
_CRASHES = (-signal.SIGILL, -signal.SIGSEGV)
_PR_SET_PDEATHSIG = 1
_PING_S = 10.0
_ENDING_S = 1.0
_NEED_NO_REPACK: set[Engine] = set()


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
        self, engine: Engine, stored: Stored, model: ModelFile, start: Start, words: EraWords
    ) -> None:
        self.engine, self.stored, self.model, self.start, self.words = engine, stored, model, start, words
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None
        self.buffers = Buffers()
        self.load_s = 0.0
        self.refs = 0
        self.session_ns = 0
        self.expires_ns = 0  # 0: never idle yet
        self.timer: asyncio.TimerHandle | None = None
        self.idle = asyncio.Event()
        self.gone = asyncio.Event()
        self.slots = asyncio.Semaphore(start.parallel)
        self._lines: list[str] = []
        self._said: list[str] = []  # what error texts are made of
        self._ready = False
        self._heard_at = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._relay: asyncio.Task[None] | None = None
        self._exit: asyncio.Task[int] | None = None

    @property
    def url(self) -> str:
        """Of the llama-server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests to the llama-server."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None)
            # llama-server may close a kept connection in the moment that it is used again
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22, connector=connector)
        return self._session

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self.process.returncode if self.process else None

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process is not None and self.exit_code is None

    async def ended(self) -> bool:
        """Whether the process is gone; one that does not answer may end in this moment."""
        if self._exit is not None:
            await asyncio.wait({self._exit}, timeout=_ENDING_S)
        return not self.alive()

    def shown_expiry(self) -> int:
        """``expires_at``: while it was never idle it moves with every look."""
        return self.expires_ns or later(self.session_ns)

    async def health(self) -> str:
        """``ok``, ``loading``, or ``gone`` where nobody answers."""
        try:
            timeout = aiohttp.ClientTimeout(_PING_S)
            async with self.session.get(f"{self.url}/health", timeout=timeout) as reply:
                return "ok" if reply.status == 200 else "loading"
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "gone"

    async def launch(self, settings: Settings, devices: tuple[Device, ...], limit_mib: int | None) -> None:
        """Start and wait until it answers. Raises LoadFailed; a cancelled wait ends the process."""
        env = {**settings.environ, "GGML_NO_BACKTRACE": "1"}
        if limit_mib is not None:
            env["MALLOC_ARENA_MAX"] = "1"  # else each thread reserves address space
        # Some builds crash in their repacked kernels on CPUs with AMX; Ollama's own is built without.
        tame = {**env, "LLAMA_ARG_NO_REPACK": "1"}
        try:
            try:
                await self._try(settings, tame if self.engine in _NEED_NO_REPACK else env, devices, limit_mib)
            except LoadFailed:
                if self.exit_code not in _CRASHES or self.engine in _NEED_NO_REPACK:
                    raise
                await self._try(settings, tame, devices, limit_mib)
                _NEED_NO_REPACK.add(self.engine)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGKILL, as Ollama does it, and until the process is gone."""
        was_alive = self.alive()
        if was_alive and self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        if self._exit is not None:
            await self._exit
        if self._relay is not None:
            await self._relay
        if was_alive and self._ready:
            self._tell_end()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _try(
        self, settings: Settings, env: Mapping[str, str], devices: tuple[Device, ...], limit_mib: int | None
    ) -> None:
        self.port = free_port()
        self._lines, self._said = [], []
        command = command_line(self.engine, self.model, self.start, self.port)
        self.words.starting(self, command, devices)
        started = time.monotonic()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=_dies_with_us(limit_mib),
                limit=2**22,
            )
        except OSError as error:
            raise LoadFailed(f"error starting llama-server: {error}") from None
        self._relay = asyncio.create_task(self._read_output(quiet=not devices))
        self._exit = asyncio.create_task(self.process.wait())
        self.words.waiting(self, devices, settings.gpu_overhead)
        await self._until_ready(settings)
        self.load_s = time.monotonic() - started
        self.buffers = read_buffers(self._lines)
        self._ready = True
        self.words.ready(self, self.load_s)

    async def _read_output(self, *, quiet: bool) -> None:
        """``quiet``: no words about offloading. Builds with Vulkan or RPC say «offloaded 19/19» without any
        device, too, and Ollama would believe it; Ollama's own builds for the CPU don't say it."""
        assert self.process is not None
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            line = without_prefix(data.decode("utf-8", "replace").rstrip("\r\n"))
            self._heard_at = time.monotonic()
            if quiet and line.startswith("load_tensors: offload"):
                continue
            self.words.log.raw(line)
            if not self._ready:
                self._lines.append(line)
            if words := captured(line):
                self._said = [*self._said, words][-64:]

    async def _until_ready(self, settings: Settings) -> None:
        assert self._exit is not None
        told, self._heard_at = "", time.monotonic()
        while True:
            state = await self.health()
            if state == "ok" and self.alive():
                return
            words = "llm server loading model" if state == "loading" else "llm server not responding"
            if words != told and self.alive():
                told, self._heard_at = words, time.monotonic()
                self.words.not_yet(words)
            done, _ = await asyncio.wait({self._exit}, timeout=POLL_S)
            if done:
                assert self._relay is not None
                await self._relay
                self._tell_end()
                raise LoadFailed(self.words.load_error(exit_words(self.exit_code), self._said))
            silent = time.monotonic() - self._heard_at
            if settings.load_timeout_ns < FOREVER_NS and silent > settings.load_timeout_ns / NS:
                raise LoadFailed(self.words.late(self._said))

    def _tell_end(self) -> None:
        """At ERROR only where some line looked like an error before, on an ordinary unload as well."""
        if self._said:
            code = self.exit_code
            number = code if code is not None and code >= 0 else "unknown"
            self.words.log.error("llama-server terminated", error=exit_words(code), exit=number)


def exit_words(code: int | None) -> str:
    """As Go names the end of a process."""
    if code is not None and code < 0:
        return f"signal: {_SIGNALS.get(signal.Signals(-code), f'signal {-code}')}"
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


def _dies_with_us(limit_mib: int | None) -> Callable[[], None]:
    """For the child, before it becomes the engine: a memory limit, and an end when we end."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if limit_mib is not None:
            size = limit_mib * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return prepare
