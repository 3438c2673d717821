"""What the gateway's benches start: narthex and its peers, each as a process of its own on loopback."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narthex.testing.fake_engine import free_port

START_S = 90.0
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


class Place:
    """A running program that answers HTTP; a context manager. ``ready`` is a path that says 200 once it
    serves."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        folder: Path,
        *,
        ready: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.port, self.folder = name, port, folder
        self.url = f"http://127.0.0.1:{port}"
        self._command, self._ready, self._env = list(command), ready, dict(env or {})
        self.log = folder / f"{name.replace(' ', '-')}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def __enter__(self) -> Place:
        begin = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (a bench that is killed leaves nothing)
            )
        while time.monotonic() < begin + START_S and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(self.port, self._ready)[0] == 200:
                    self.started_s = time.monotonic() - begin
                    return self
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to all of its group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self.process is not None
        return self.process.pid

    def rss_bytes(self) -> int:
        """Of it and all processes below it."""
        return sum(_rss(pid) for pid in family(self.pid))


def narthex(
    folder: Path,
    *,
    ollama: str | None = None,
    engine: Path | None = None,
    policy: str = "",
    more: Sequence[str] = (),
) -> Place:
    """``narthex serve`` with a home of its own below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "narthex.toml"
    config.write_text(policy)
    port = free_port()
    command = [sys.executable, "-m", "narthex", "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--config", str(config), *more]
    command += ["--ollama", ollama] if ollama else ["--no-ollama"]
    command += ["--engine-path", str(engine)] if engine else []
    env = {f"NARTHEX_{name}": str(folder / name.lower()) for name in ("DATA", "STATE", "CACHE")}
    return Place("narthex", command, port, folder, ready="/readyz", env=env)


def litellm(folder: Path, python: Path, engine: str, model: str) -> Place:
    """LiteLLM's proxy before an engine that speaks OpenAI's API."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "litellm.yaml"
    settings: dict[str, Any] = {"model": f"openai/{model}", "api_base": f"{engine}/v1", "api_key": "none"}
    # YAML takes JSON.
    config.write_text(json.dumps({"model_list": [{"model_name": model, "litellm_params": settings}]}))
    command = [str(python.with_name("litellm")), "--config", str(config), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
    return Place("LiteLLM", command, port, folder, ready="/health/liveliness", env=env)


def llama_swap(folder: Path, binary: Path, program: Path, model: str, slots: int) -> Place:
    """llama-swap, which starts the fake llama-server itself."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "llama-swap.yaml"
    command = f"{program} -m {folder / model}.gguf --port ${{PORT}} -np {slots} -c 65536"
    config.write_text(json.dumps({"models": {model: {"cmd": command}}}))
    words = [str(binary), "--config", str(config), "--listen", f"127.0.0.1:{port}"]
    return Place("llama-swap", words, port, folder, ready="/health")


def get(port: int, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body. Raises OSError and HTTPException."""
    return ask(port, "GET", path, None, timeout_s)


def ask(port: int, method: str, path: str, body: Any, timeout_s: float = 60.0) -> tuple[int, bytes]:
    """One request with JSON. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    with contextlib.closing(connection):
        data = json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in task.read_text().split()]
        at += 1
    return found


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _rss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
