"""A running llama-server: started, watched until it is ready, and stopped without leaving anything behind."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from narthex.engines._base import DeviceBuffers, Engine, Failure, LaunchFailed, LoadReport, StopReport
from narthex.engines.child import CannotStart, Child
from narthex.engines.companions import CompanionLog, companion_logs, listeners
from narthex.engines.llama_arguments import LOOPBACK, FlagMissing, arguments
from narthex.engines.llama_exit import explain_exit, last_line
from narthex.engines.llama_log import parse_load
from narthex.engines.llama_probe import environment
from narthex.engines.oom import oom_kills, oom_kills_since
from narthex.engines.stall import StallWatch
from narthex.host.facts import CardsBefore
from narthex.host.gpu import VramReturn, cards_before
from narthex.host.processes import family
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.units import format_duration

POLL_S = 0.025  # between two looks at /health: readiness is found within 50 ms of truth
HEALTH_S = 1.0  # one look may take this long
PORT_TRIES = 4
STOP_S = 10.0  # SIGTERM until SIGKILL
_NEED_NO_REPACK: set[tuple[str, str]] = set()  # path and build
_LISTENING = re.compile(r"listening on|model loaded|all slots are idle")

Watch = Callable[[str, float | None], None]


def _nobody(stage: str, share: float | None) -> None:
    """A watch that tells no one."""


def launch(
    engine: Engine,
    model_path: str | Path,
    knobs: KnobValues,
    *,
    log_dir: Path,
    timeout_s: float = 600,
    stall_s: float = 120,
    watch: Watch | None = None,
) -> LlamaServer:
    """Start it and wait until it answers. Raises LaunchFailed with the typed reason.

    ``timeout_s`` is for the whole load; ``stall_s`` for a time without any output, CPU or disk work.
    ``watch`` is called with («loading», None) about every quarter of a second.

    Two things are tried again: a port that somebody else took in the meantime, and, once and with
    ``--no-repack``, a crash by SIGSEGV or SIGILL while loading. Some builds die so in their repacked kernels
    on CPUs with AMX, also where a hypervisor hides AMX from /proc/cpuinfo. That a build needs the flag is
    remembered for the life of this process, and told in ``report.gaps``.
    """
    attempt = _Attempt(engine, model_path, knobs, log_dir, timeout_s, stall_s, watch or _nobody)
    attempt.no_repack = _name(engine) in _NEED_NO_REPACK
    tries = 1
    while True:
        try:
            server = attempt.run()
        except LaunchFailed as failed:
            if failed.failure.outcome is Outcome.PORT_IN_USE and tries < PORT_TRIES:
                tries += 1
            elif not attempt.no_repack and _may_be_repacking(engine, failed.failure):
                attempt.no_repack = True
            else:
                raise
        else:
            if attempt.no_repack:
                _NEED_NO_REPACK.add(_name(engine))
            return server


@dataclass(frozen=True)
class _Before:
    """The machine before the start, to tell afterwards what changed."""

    kills: int | None
    cards: CardsBefore | None
    companions: tuple[CompanionLog, ...]

    def explain(self, child: Child, *, loaded: bool) -> Failure:
        """Why the child ended."""
        return explain_exit(
            child.output.tail() if loaded else child.output.head(),
            child.exit_code,
            loaded=loaded,
            oom_kills=oom_kills_since(self.kills),
            companions=self.companions,
        )


class LlamaServer:
    """A llama-server that answers. Leaving it as a context manager stops it."""

    def __init__(self, child: Child, url: str, log_path: Path, before: _Before) -> None:
        self.url = url
        self.log_path = log_path
        self.load_s = 0.0
        self.report = LoadReport()
        self._child = child
        self._before = before
        self._stopped: StopReport | None = None

    @property
    def pid(self) -> int:
        """Of llama-server itself."""
        return self._child.pid

    @property
    def cards_before(self) -> CardsBefore | None:
        """The cards before the start, for :class:`narthex.host.sampler.Sampler`; None when it uses none."""
        return self._before.cards if self._gpu_buffers() else None

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._child.alive()

    def failure(self) -> Failure | None:
        """Why it ended; None while it runs, and after a :meth:`stop` that was asked for."""
        if self.alive() or self._stopped is not None:
            return None
        return self._before.explain(self._child, loaded=True)

    def tail(self, lines: int = 40) -> list[str]:
        """The newest lines of its output."""
        return self._child.output.tail(lines)

    def stop(self) -> StopReport:
        """SIGTERM, then SIGKILL; returns once the process is gone and, on a GPU, its memory is back."""
        if self._stopped is None:
            self._stopped = self._stop()
        return self._stopped

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _stop(self) -> StopReport:
        start = time.monotonic()
        on_gpus = sum(row.model_bytes + row.context_bytes + row.compute_bytes for row in self._gpu_buffers())
        memory = VramReturn(self.pid, on_gpus)
        gentle = self._child.end(STOP_S)
        return StopReport(
            exit_code=self._child.exit_code,
            gentle=gentle and self._child.exit_code != -signal.SIGKILL,
            seconds=time.monotonic() - start,
            vram_back=memory.is_back() if on_gpus else None,
        )

    def _gpu_buffers(self) -> list[DeviceBuffers]:
        """Of cards in this machine: neither main memory nor a remote device."""
        return [row for row in self.report.buffers if row.device != "Host" and "RPC" not in row.device]


@dataclass
class _Attempt:
    """One question to the engine: start with these knobs. May be run several times."""

    engine: Engine
    model_path: str | Path
    knobs: KnobValues
    log_dir: Path
    timeout_s: float
    stall_s: float
    watch: Watch
    no_repack: bool = False

    def run(self) -> LlamaServer:
        """A ready server. Raises LaunchFailed; then nothing runs any more."""
        port = free_port()
        command = self._command(port)
        log_path = self.log_dir / f"llama-server-{time.strftime('%Y%m%d-%H%M%S')}-{port}.log"
        before = _Before(oom_kills(), cards_before(), companion_logs(self.engine.extra_args))
        try:
            child = Child(command, env=environment(self.engine.env), log=log_path)
        except CannotStart as error:
            failure = Failure(outcome=Outcome.FAILED, line=f"{self.engine.path} can't be started: {error}")
            raise LaunchFailed(failure, log_path, 0.0) from None
        server = LlamaServer(child, f"http://{LOOPBACK}:{port}", log_path, before)
        try:
            failure_or_none = self._until_ready(child, port, before)
            server.load_s = time.monotonic() - child.started_at
            if failure_or_none is not None:
                child.end()
                raise LaunchFailed(failure_or_none, log_path, server.load_s)
            server.report = self._report(child)
        except BaseException:
            child.end()
            raise
        return server

    def _command(self, port: int) -> list[str]:
        try:
            command = arguments(self.engine, self.model_path, self.knobs, port)
        except FlagMissing as missing:
            raise LaunchFailed(missing.failure, None, 0.0) from None
        return [*command, "--no-repack"] if self.no_repack else command

    def _until_ready(self, child: Child, port: int, before: _Before) -> Failure | None:
        """None once /health answers 200; the failure where it ended, stalled or took too long."""
        stall = StallWatch(child.pid, self.stall_s)
        seen, told_at = 0, 0.0
        while child.alive():
            if is_ready(port) and _is_ours(port, child):
                return None
            now = time.monotonic()
            if now - told_at > 0.25:
                told_at = now
                self.watch("loading", None)
            if now - child.started_at > self.timeout_s:
                return self._late(
                    Outcome.TIMEOUT, f"Not ready after {format_duration(self.timeout_s)}.", child
                )
            if stall.stalled(child.output.last_at):
                words = f"No output and no work for {format_duration(self.stall_s)}."
                return self._late(Outcome.STALLED, words, child)
            seen = _pause(child, seen)
        return before.explain(child, loaded=False)

    def _late(self, outcome: Outcome, words: str, child: Child) -> Failure:
        said = last_line(child.output.tail(20)) or "none"
        return Failure(outcome=outcome, line=f"{words} Its last line: {said}")

    def _report(self, child: Child) -> LoadReport:
        report = parse_load(child.output.head())
        if not self.no_repack:
            return report
        gap = "Started with --no-repack: without it this build crashed while loading (known with AMX CPUs)."
        return msgspec.structs.replace(report, gaps=(*report.gaps, gap))


def is_ready(port: int) -> bool:
    """Whether ``/health`` says 200. Refused (not listening yet) and 503 (loading) are no."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=HEALTH_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _is_ours(port: int, child: Child) -> bool:
    """Whether it is our engine that answers there, and not a stranger who took the port before it."""
    owners = listeners(port)
    return child.alive() and (not owners or bool(owners & family(child.pid)))


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _may_be_repacking(engine: Engine, failure: Failure) -> bool:
    crash = failure.exit_code in (-signal.SIGSEGV, -signal.SIGILL) and failure.outcome is Outcome.CRASHED
    return crash and "--no-repack" in engine.flags and not {"--no-repack", "-nr"} & set(engine.extra_args)


def _name(engine: Engine) -> tuple[str, str]:
    return engine.path, engine.build


def _pause(child: Child, seen: int) -> int:
    """Until the next look: a line that promises readiness cuts it short."""
    until = time.monotonic() + POLL_S
    while (left := until - time.monotonic()) > 0:
        count = child.output.wait(seen, left)
        new = child.output.tail(count - seen) if count > seen else []
        seen = count
        if not child.alive() or any(_LISTENING.search(line) for line in new):
            break
    return seen
