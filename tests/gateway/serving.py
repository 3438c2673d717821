"""A gateway as its own process, with folders of its own, and a plain client of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

PATIENCE_S = 60.0
_KILOBYTES = 600_000  # of address space: gemma fits with a small cache


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cause(self) -> str:
        """In either dialect; "" where nothing failed."""
        found = re.search(rb"\[narthex: (\w+)\]", self.body)
        return found[1].decode() if found else ""


def until(true: Callable[[], object], what: str = "") -> Any:
    """What it says once it is true. Fails the test where that takes too long."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"it did not come: {what or true}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cramped(engine: Path, folder: Path) -> Path:
    """The engine with little memory once it serves."""
    path = folder / "cramped-llama-server"
    words = shlex.quote(str(engine))
    path.write_text(
        f'#!/bin/bash\ncase "$*" in *--version*|*--help*|*--list-devices*) exec {words} "$@";; esac\n'
        f'ulimit -v {_KILOBYTES}; export MALLOC_ARENA_MAX=1; exec {words} "$@"\n'
    )
    path.chmod(0o755)
    return path


def chat(model: str, *, tokens: int = 4, stream: bool = False, text: str = "Hello.", **more: Any) -> Any:
    """The body of a chat on /api; ``options`` are added to the length."""
    options = {"num_predict": tokens, "temperature": 0, "seed": 1, **more.pop("options", {})}
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": stream, "options": options, **more}


class Serving:
    """`narthex serve`, as a context manager. ``policy``: the text of its narthex.toml."""

    def __init__(
        self, folder: Path, *words: str, policy: str = "", env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.words, self.env = folder, words, dict(env or {})
        self.port = port or free_port()
        self.config, self.log_path = folder / "narthex.toml", folder / "serve.log"
        self.config.write_text(policy)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Serving:
        """Start it and wait until it answers."""
        self.launch("--listen", f"127.0.0.1:{self.port}", "--config", str(self.config), *self.words)
        until(lambda: self._answers() or self.ended(), "the gateway answers")
        assert not self.ended(), self.log()
        return self

    def launch(self, *words: str) -> None:
        """Start it with these words alone."""
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("NARTHEX_", "OLLAMA_"))
        }
        env |= {f"NARTHEX_{name}": str(self.folder / name.lower()) for name in ("DATA", "CACHE", "STATE")}
        env |= {"HOME": str(self.folder / "home"), **self.env}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "narthex", "serve", *words],
                env=env,
                stderr=log,
                stdout=log,
                cwd=self.folder,
            )

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Serving:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and not self.ended():
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"it did not end: {self.log()}") from None

    # what it is asked

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            found = _send(connection, method, path, body, headers)
            return Answer(found.status, found.headers, found.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        return self.ask("GET", path).json

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    @contextlib.contextmanager
    def stream(self, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        """An answer that is read as it comes; its client leaves at the end of the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            yield _send(connection, "POST", path, body, {})
        finally:
            connection.close()

    def leave(self, path: str, body: Any) -> socket.socket:
        """Send a request and wait for nothing; who closes it has left."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Type: application/json\r\n"
        found = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        found.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return found

    # what it tells

    def log(self) -> str:
        return self.log_path.read_text()

    def events(self, kind: str) -> list[str]:
        """The lines of its log of this kind."""
        return [line for line in self.log().splitlines() if line.partition(" ")[2].startswith(f"{kind} ")]

    def requests(self) -> list[dict[str, Any]]:
        """The lines of its request log that are about requests."""
        path = self.folder / "state" / "gateway" / "requests.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if "path" in row]

    def causes(self) -> set[str]:
        """What failed so far, by its request log."""
        return {row.get("cause", "") for row in self.requests()}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a figure's rows that have these labels."""
        total = 0.0
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def loads(self, model: str) -> float:
        """So often it was loaded."""
        return self.metric("narthex_loads_total", model=model)

    def residents(self) -> dict[str, str]:
        """Model → its state."""
        return {row["name"]: row["state"] for row in self.get("/narthex/state")["holdings"]}

    def engines(self) -> list[int]:
        """The processes of its llama-servers."""
        return engines_of(self.pid)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/healthz").status == 200
        return False


def engines_of(pid: int) -> list[int]:
    """The llama-servers anywhere below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].endswith(b"llama-server"):
                        found.append(child)
                found += engines_of(child)
    return found


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    known = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(method, path, data, {**known, **headers})
    return connection.getresponse()
