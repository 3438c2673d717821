"""Who listens where: real sockets of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect import ports
from narthex.doctor.collect.gather import Collected, Scope
from narthex.testing.fake_docker import FakeDocker

from .boxes import box

LISTEN = (
    "import socket, sys, time; s = socket.create_server((sys.argv[-1], 0)); "
    "print(s.getsockname()[1], flush=True); time.sleep(300)"
)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Any]:
    """``listener("llama-server", "127.0.0.1")``: a process of that name that listens. (port, PID)"""
    started: list[subprocess.Popen[str]] = []

    def start(
        name: str, address: str, *, words: tuple[str, ...] = (), cwd: Path = tmp_path
    ) -> tuple[int, int]:
        program = tmp_path / name
        if not program.exists():
            program.symlink_to(sys.executable)
        argv = [str(program), "-c", LISTEN, *words, address]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=cwd)
        started.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline()), process.pid

    yield start
    for process in started:
        process.kill()
        process.wait()


def row(found: Collected, port: int) -> Any:
    (reading,) = [row for row in found.readings if row.about == str(port)]
    return reading


@pytest.mark.usefixtures("no_docker")
def test_a_service_is_known_by_its_program_on_any_port(listener: Any) -> None:
    port, pid = listener("llama-server", "127.0.0.1")
    found = ports.collect(Scope())
    told = row(found, port)
    assert told.value["service"] == "llama_server"
    assert told.value["addresses"] == ["127.0.0.1"]
    assert told.value["public"] is False
    assert (told.value["pid"], told.value["told_by"]) == (pid, "process")
    assert told.text == f"127.0.0.1:{port} is held by llama-server: llama-server (PID {pid})"
    assert f"llama-server listens for this machine only, on port {port}." in [
        fact.text for fact in found.facts
    ]


@pytest.mark.usefixtures("no_docker")
def test_one_that_is_open_to_all_is_told_as_public_and_not_as_a_fact(listener: Any) -> None:
    port, _ = listener("ollama", "0.0.0.0")
    found = ports.collect(Scope())
    assert row(found, port).value["service"] == "ollama"
    assert row(found, port).value["public"] is True
    assert not [fact for fact in found.facts if str(port) in fact.text]


@pytest.mark.usefixtures("no_docker")
def test_a_strangers_port_is_told_where_a_service_would_want_it(
    listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, pid = listener("squatter", "127.0.0.1")
    assert not [row for row in ports.collect(Scope()).readings if row.about == str(port)]
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    told = row(ports.collect(Scope()), port)
    assert (told.value["service"], told.value["pid"]) == ("", pid)
    assert told.text == f"127.0.0.1:{port} is held by squatter (PID {pid})"


@pytest.mark.usefixtures("no_docker")
def test_comfyui_is_known_by_its_folder(listener: Any, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text(LISTEN)
    process = subprocess.Popen(
        [sys.executable, "main.py", "127.0.0.1"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert row(ports.collect(Scope()), port).value["service"] == "comfyui"
    finally:
        process.kill()
        process.wait()


def test_a_published_port_belongs_to_the_container_behind_it(fake_docker: FakeDocker) -> None:
    everywhere = {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "0"}]}
    container = fake_docker.add(box("open-webui", ports=everywhere))
    port = int(container.facts()["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"])
    told = row(ports.collect(Scope()), port)
    assert told.value["public"] is True
    assert told.value["pid"] == os.getpid()  # the fake's forwarder runs here


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False),
        ("127.0.1.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.4", True),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert ports.is_public(address) is public


def test_a_recorded_tree_has_no_sockets(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert ports.collect(Scope(root=tmp_path)) == Collected()


@pytest.mark.usefixtures("no_docker")
def test_a_runner_of_ollama_is_not_taken_for_a_server_of_its_own(tmp_path: Path) -> None:
    runner, server = tmp_path / "llama-server", tmp_path / "ollama"
    for program in (runner, server):
        program.symlink_to(sys.executable)
    script = "import subprocess, sys; subprocess.run([sys.argv[1], '-c', sys.argv[2], '127.0.0.1'])"
    process = subprocess.Popen(
        [str(server), "-c", script, str(runner), LISTEN],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert not [row for row in ports.collect(Scope()).readings if row.about == port]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
