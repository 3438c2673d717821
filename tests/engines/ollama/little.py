"""Little Ollamas as processes and in containers of a fake Docker daemon."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from narthex.testing.docker.container import Command, FakeContainer
from narthex.testing.fake_docker import FakeDocker

SCRIPT = Path(__file__).with_name("little_server.py")
FACTS = Path(__file__).parents[2] / "data" / "engines" / "ollama" / "docker"
VERSION = "0.33.0-rc2"


@contextlib.contextmanager
def little_ollama(
    env: Mapping[str, str] | None = None, log: Path | None = None, port: int | None = None
) -> Iterator[tuple[int, int]]:
    """(port, pid) of a little Ollama that answers."""
    port = port or free_port()
    own = {"PATH": os.environ["PATH"], "LITTLE_VERSION": VERSION, "OLLAMA_HOST": f"127.0.0.1:{port}"}
    with contextlib.ExitStack() as stack:
        output: Any = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "serve"],
            env={**own, **(env or {})},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
        try:
            answers(f"http://127.0.0.1:{port}")
            yield port, process.pid
        finally:
            process.kill()
            process.wait()


def daemon(env: Mapping[str, str] | None = None) -> FakeDocker:
    """A fake Docker whose containers run little Ollamas."""
    words = [sys.executable, str(SCRIPT), "serve"]
    return FakeDocker(lambda facts: Command(words, {"LITTLE_VERSION": VERSION, **(env or {})}))


def facts(name: str, port: int | None = None) -> dict[str, Any]:
    """What inspect tells of a container, published on a free port of the loopback."""
    told: dict[str, Any] = json.loads((FACTS / f"inspect-{name}.json").read_text())
    binding = {"HostIp": "127.0.0.1", "HostPort": str(port or free_port())}
    told["HostConfig"]["PortBindings"] = {"11434/tcp": [binding]}
    return copy.deepcopy(told)


def url_of(container: FakeContainer) -> str:
    """Where it is published."""
    binding = container.facts()["NetworkSettings"]["Ports"]["11434/tcp"][0]
    return f"http://127.0.0.1:{binding['HostPort']}"


def answers(url: str, within_s: float = 30.0) -> None:
    """Wait until a server answers there."""
    until = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
