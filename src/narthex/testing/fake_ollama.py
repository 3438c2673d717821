"""A fake Ollama: a real HTTP server and scheduler in front of a real llama-server.

It behaves as recordings of Ollama 0.33 do, and tells its version as asked. It computes with the llama-server
that it is given; nothing in it is Ollama's own. It is a test tool: what it was not taught it answers wrongly.

As a program: ``python -m narthex.testing.fake_ollama --store DIR --engine LLAMA_SERVER [--version V]``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from narthex.host.processes import command_line
from narthex.models.header import read_header
from narthex.testing.ollama import names
from narthex.testing.ollama.gguf_info import ModelFile, config_of
from narthex.testing.ollama.store import Store, layer

VERSION = "0.33.0-rc2"
_START_S = 60.0
_PR_SET_NAME = 15


class FakeOllama:
    """A running fake, as a context manager. ``engine`` is a llama-server binary.

    ``limit_mib`` bounds the address space of the device's process: of the llama-server, or with ``rpc`` of a
    ggml-rpc-server beside it, which then is the «GPU». ``log`` takes what Ollama writes to both streams.
    """

    def __init__(
        self,
        store: Path,
        *,
        engine: Path | str,
        env: Mapping[str, str] | None = None,
        version: str = VERSION,
        limit_mib: int | None = None,
        rpc: bool = False,
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        self.store, self.engine, self.version = Path(store), Path(engine), version
        self.env, self.limit_mib, self.rpc = dict(env or {}), limit_mib, rpc
        self.port = port or _free_port()
        self.log_path = log or self.store.parent / f"ollama-{self.port}.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._device: subprocess.Popen[bytes] | None = None
        self._address = ""
        Store(self.store)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the server; 0 while it does not run."""
        return self._server.pid if self._server else 0

    def start(self) -> None:
        """Start it (again), on the same port and store, and wait until it answers."""
        assert self._server is None, "it runs already"
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OLLAMA_", "LLAMA_ARG_"))
        }
        env |= {"OLLAMA_HOST": f"127.0.0.1:{self.port}", "OLLAMA_MODELS": str(self.store)}
        if self.rpc:
            env["LLAMA_ARG_RPC"] = self._start_device()
        env |= self.env
        command = [sys.executable, "-m", "narthex.testing.fake_ollama", "--store", str(self.store)]
        command += ["--engine", str(self.engine), "--version", self.version, "--with-parent"]
        if self.rpc:  # its free memory never changes: Ollama would wait 5 s after every unload
            command += ["--recovery", "0"]
        if self.limit_mib is not None and not self.rpc:
            command += ["--limit-mib", str(self.limit_mib)]
        with self.log_path.open("ab") as log:
            self._server = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def stop(self) -> None:
        """As with ``systemctl stop``: SIGTERM, which ends the runners, too."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing is said or put away. The runners go with it."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def runner_pids(self) -> list[int]:
        """The llama-servers it runs now."""
        return [pid for pid in _children(self.pid) if "--model" in command_line(pid)] if self.pid else []

    def kill_runner(self, number: int = signal.SIGKILL) -> int:
        """Kill the runners; how many there were."""
        pids = self.runner_pids()
        for pid in pids:
            os.kill(pid, number)
        return len(pids)

    def add_model(self, name: str, gguf: Path, parameters: Mapping[str, Any] | None = None) -> str:
        """Put a GGUF file into the store, linked where possible. The manifest's digest."""
        return add_model(self.store, name, gguf, parameters)

    def blob(self, name: str, *, own: bool = False) -> Path:
        """The weights of a stored model. They may be linked to the file they came from; with ``own`` they are
        copied first, so that a test can damage them."""
        stored = Store(self.store).find(names.parse(name))
        path = stored.layer("model") if stored is not None else None
        assert path is not None, f"{name} is not in the store"
        if own:
            copy = path.with_suffix(".copy")
            shutil.copyfile(path, copy)
            copy.replace(path)
        return path

    def __enter__(self) -> FakeOllama:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The server and its device end."""
        self.stop()
        if self._device is not None:
            self._device.kill()
            self._device.wait()
            self._device = None

    def _end(self, number: int) -> None:
        if self._server is None:
            return
        self._server.send_signal(number)
        assert self._server.stdin is not None
        self._server.wait()
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        self._server = None

    def _wait(self) -> None:
        assert self._server is not None
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._server.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5):  # noqa: S310
                return
            time.sleep(0.02)
        self.kill()
        tail = self.log_path.read_text()[-2000:]
        raise RuntimeError(f"the fake Ollama did not start:\n{tail}")

    def _start_device(self) -> str:
        """A ggml-rpc-server beside the engine: its address."""
        if self._device is not None and self._device.poll() is None:
            return self._address
        binary = self.engine.with_name("ggml-rpc-server")
        if not binary.exists():
            binary = self.engine.with_name("rpc-server")
        port = _free_port()
        self._address = f"127.0.0.1:{port}"
        limit, size = self.limit_mib, (self.limit_mib or 0) * 2**20
        prefix = ["prlimit", f"--as={size}"] if limit is not None else []
        with self.log_path.with_suffix(".device.log").open("ab") as log:
            self._device = subprocess.Popen(
                [*prefix, str(binary), "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log
            )
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return self._address
            time.sleep(0.05)
        raise RuntimeError("the RPC device did not start")


def add_model(
    store: Path, name: str, gguf: Path, parameters: Mapping[str, Any] | None = None, *, parent: str = ""
) -> str:
    """A model in a store that need not be served: manifest, config and blobs. The manifest's digest."""
    shelf = Store(store)
    parsed = names.parse(name)
    assert parsed is not None, f"{name} is no model name"
    model = ModelFile(gguf, read_header(gguf))
    digest = shelf.adopt(gguf)
    layers = [layer("model", digest, gguf.stat().st_size)]
    if parameters:
        data = json.dumps(dict(parameters), separators=(",", ":")).encode()
        layers.append(layer("params", shelf.put(data)[0], len(data)))
    return shelf.write(parsed, config_of(model, layers, parent), layers).digest


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; with ``--with-parent`` also until standard input is closed."""
    from narthex.testing.ollama.server import serve

    parser = argparse.ArgumentParser(prog="python -m narthex.testing.fake_ollama", description=__doc__)
    parser.add_argument("--store", type=Path, help="models folder; else OLLAMA_MODELS")
    parser.add_argument("--engine", type=Path, required=True, help="a llama-server binary")
    parser.add_argument("--version", default=VERSION, help="the Ollama to be")
    parser.add_argument("--limit-mib", type=int, help="address space of each llama-server")
    parser.add_argument(
        "--recovery", type=float, default=5.0, help="seconds to wait for VRAM after an unload"
    )
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    given = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"ollama", 0, 0, 0)  # as the process list shows a real one
    environ = dict(os.environ)
    if given.store is not None:
        environ["OLLAMA_MODELS"] = str(given.store)
    options = {"limit_mib": given.limit_mib, "recovery_s": given.recovery, "with_parent": given.with_parent}
    code = asyncio.run(serve(environ, given.engine, given.version, **options))
    sys.exit(code)


if __name__ == "__main__":
    main()
