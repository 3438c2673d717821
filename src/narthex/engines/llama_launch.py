"""Starting a llama-server: a command line, a port, and the watch until it answers or has failed."""

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

from narthex.engines._base import Engine, Failure, LaunchFailed, LoadReport
from narthex.engines.child import CannotStart, Child
from narthex.engines.companions import companion_logs
from narthex.engines.llama_arguments import LOOPBACK, FlagMissing, arguments
from narthex.engines.llama_exit import last_line
from narthex.engines.llama_log import parse_load
from narthex.engines.llama_probe import environment
from narthex.engines.llama_running import LEAVE_S, Before, LlamaServer
from narthex.engines.oom import oom_kills
from narthex.engines.stall import StallWatch
from narthex.host.gpu import cards_before
from narthex.host.listeners import is_rival
from narthex.host.processes import family
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.units import format_duration

POLL_S = 0.025  # between two looks at /health: readiness is found within 50 ms of truth
WATCH_S = 0.25
RIVAL_S = 10.0  # an engine binds its port first: one that lost it ends by itself, long before this
HEALTH_S = 1.0  # one look may take this long
PORT_TRIES = 4
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
        before = Before(oom_kills(), cards_before(), companion_logs(self.engine.extra_args))
        try:
            child = Child(command, env=environment(self.engine.env), log=log_path)
        except CannotStart as error:
            words = f"{self.engine.path} can't be started: {error}"
            raise LaunchFailed(Failure(outcome=Outcome.FAILED, line=words), log_path, 0.0) from None
        server = LlamaServer(child, f"http://{LOOPBACK}:{port}", log_path, before)
        try:
            failure, server.load_s = self._until_ready(child, port, before)
            if failure is not None:
                child.end()
                raise LaunchFailed(failure, log_path, server.load_s)
            server.report = self._report(child)
        except BaseException:
            child.end(LEAVE_S)
            raise
        return server

    def _command(self, port: int) -> list[str]:
        try:
            command = arguments(self.engine, self.model_path, self.knobs, port)
        except FlagMissing as missing:
            raise LaunchFailed(missing.failure, None, 0.0) from None
        return [*command, "--no-repack"] if self.no_repack else command

    def _until_ready(self, child: Child, port: int, before: Before) -> tuple[Failure | None, float]:
        """Seconds until /health answered 200, with the failure where it ended, stalled or took too long."""
        stall = StallWatch(child.pid, self.stall_s)
        seen, told_at = 0, 0.0
        while child.alive():
            healthy = is_ready(port)
            now = time.monotonic()
            seconds = now - child.started_at
            if healthy and child.alive():
                if not is_rival(port, family(child.pid)):
                    return None, seconds
                if seconds > RIVAL_S:
                    words = f"Another program answers on port {port}."
                    return Failure(outcome=Outcome.PORT_IN_USE, line=words), seconds
            if now - told_at > WATCH_S:
                told_at = now
                self.watch("loading", None)
            if seconds > self.timeout_s:
                words = f"Not ready after {format_duration(self.timeout_s)}."
                return self._late(Outcome.TIMEOUT, words, child), seconds
            if stall.stalled(child.output.last_at):
                words = f"No output and no work for {format_duration(self.stall_s)}."
                return self._late(Outcome.STALLED, words, child), seconds
            seen = _pause(child, seen)
        return before.explain(child, loaded=False), time.monotonic() - child.started_at

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
