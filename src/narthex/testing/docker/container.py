"""A container of the fake daemon: Docker's own description of it, a real process, and what that wrote."""

from __future__ import annotations

import contextlib
import copy
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple, Protocol

from narthex.testing.docker.forward import Forward

STDOUT, STDERR = 1, 2
_STOP_S = 10.0
_NEVER = "0001-01-01T00:00:00Z"

Write = Callable[[int, bytes], None]
"""Takes a stream's number and one line without its end."""


class Row(NamedTuple):
    """One line of a container's log."""

    at_ns: int
    stream: int
    line: bytes


class Program(Protocol):
    """What runs in a container."""

    def start(self, env: Mapping[str, str], port: int, write: Write) -> int:
        """Begin, with the container's variables, serving on that port of this machine. Returns the pid."""
        ...

    def stop(self) -> None:
        """End it; returns once it is gone."""
        ...

    def exit_code(self) -> int | None:
        """Of the ended program; None while it runs."""
        ...


class Command:
    """A real process. It is told its port by ``OLLAMA_HOST``: the container's own value stays in what inspect
    shows, as a real container has its own network and this one has not."""

    def __init__(self, words: list[str], env: Mapping[str, str] | None = None) -> None:
        self._words = words
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, env: Mapping[str, str], port: int, write: Write) -> int:
        """Start the process; its lines go to the log."""
        path = {"PATH": os.environ.get("PATH", "")}
        own = {**env, **path, **self._env, "OLLAMA_HOST": f"127.0.0.1:{port}"}
        self._process = subprocess.Popen(
            self._words, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        for number, stream in ((STDOUT, self._process.stdout), (STDERR, self._process.stderr)):
            threading.Thread(target=_follow, args=(stream, number, write), daemon=True).start()
        return self._process.pid

    def stop(self) -> None:
        """As Docker does: gently, and after a while firmly."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else 0


class FakeContainer:
    """``facts`` is what ``docker inspect`` tells; state, ports and times in it are kept true."""

    def __init__(self, facts: Mapping[str, Any], program: Program | None) -> None:
        self._facts: dict[str, Any] = copy.deepcopy(dict(facts))
        self._facts.setdefault("Id", secrets.token_hex(32))
        self.program = program
        self.rows: list[Row] = []
        self.forwards: list[Forward] = []
        before = self._facts.get("State", {}).get("Status", "created")
        self._facts["State"] = {"StartedAt": _NEVER, "FinishedAt": _NEVER, **self._facts.get("State", {})}
        self._facts["State"].update(Running=False, Pid=0, Status="exited" if before == "running" else before)
        self._facts.setdefault("NetworkSettings", {})["Ports"] = {}

    @property
    def id(self) -> str:
        """64 hex digits."""
        return str(self._facts["Id"])

    @property
    def name(self) -> str:
        """Without the slash that Docker puts before it."""
        return str(self._facts["Name"]).lstrip("/")

    @name.setter
    def name(self, name: str) -> None:
        self._facts["Name"] = f"/{name}"

    @property
    def env(self) -> dict[str, str]:
        """The variables it was created with."""
        split = (row.partition("=") for row in self._facts["Config"].get("Env") or ())
        return {name: value for name, _, value in split}

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return bool(self.facts()["State"]["Running"])

    def facts(self) -> dict[str, Any]:
        """What inspect tells now."""
        state = self._facts["State"]
        if state["Running"] and self.program is not None and (code := self.program.exit_code()) is not None:
            self._ended(code)
        return self._facts

    def start(self) -> None:
        """Run its program, and open its ports. OSError where a port is taken."""
        if self.running:
            return
        inner = _free_port()
        host = self._facts["HostConfig"].get("NetworkMode") == "host"
        if host:
            inner = int(self.env["OLLAMA_HOST"].rpartition(":")[2])
        ports = {} if host else self._open(self._facts["HostConfig"].get("PortBindings") or {}, inner)
        pid = self.program.start(self.env, inner, self.write) if self.program is not None else 0
        self._facts["State"].update(Running=True, Status="running", Pid=pid, StartedAt=stamp(time.time_ns()))
        self._facts["NetworkSettings"]["Ports"] = ports

    def stop(self) -> None:
        """End its program, and close its ports."""
        if not self._facts["State"]["Running"]:
            return
        if self.program is not None:
            self.program.stop()
        self._ended(self.program.exit_code() or 0 if self.program is not None else 0)

    def write(self, stream: int, line: bytes) -> None:
        """A line of its output."""
        last = self.rows[-1].at_ns if self.rows else 0
        self.rows.append(Row(max(time.time_ns(), last + 1), stream, line))

    def _ended(self, code: int) -> None:
        for forward in self.forwards:
            forward.close()
        self.forwards = []
        self._facts["State"].update(
            Running=False, Status="exited", Pid=0, ExitCode=code, FinishedAt=stamp(time.time_ns())
        )
        self._facts["NetworkSettings"]["Ports"] = {}

    def _open(self, wanted: Mapping[str, Any], inner: int) -> dict[str, Any]:
        opened: dict[str, Any] = {}
        for port, bindings in wanted.items():
            opened[port] = []
            for binding in bindings or ():
                host = binding.get("HostIp") or "0.0.0.0"  # noqa: S104 (what Docker does without an address)
                try:
                    forward = Forward(host, int(binding.get("HostPort") or 0), inner)
                except OSError:
                    for other in self.forwards:
                        other.close()
                    self.forwards = []
                    raise
                self.forwards.append(forward)
                opened[port].append({"HostIp": host, "HostPort": str(forward.port)})
        return opened


def stamp(at_ns: int) -> str:
    """RFC 3339 with nine digits behind the point, as Docker writes it."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _follow(stream: IO[bytes] | None, number: int, write: Write) -> None:
    with contextlib.suppress(ValueError):
        for line in stream or ():
            write(number, line.rstrip(b"\n"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
