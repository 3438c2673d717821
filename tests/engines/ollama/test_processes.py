"""Ollama's processes in /proc: real ones, started and killed here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narthex.engines.ollama import processes
from narthex.host.listeners import listener_pid
from narthex.host.processes import environment

from .little import little_ollama

BLOB = "ab" * 32


def test_the_server_behind_a_port_is_found_with_its_environment() -> None:
    with little_ollama({"OLLAMA_NUM_PARALLEL": "2"}) as (port, pid):
        assert processes.server_pid(port) == pid
        assert processes.server_pid(port, "::1") is None
        assert environment(pid)["OLLAMA_NUM_PARALLEL"] == "2"
        assert pid in processes.server_pids()
    assert processes.server_pid(port) is None


AS_NOBODY = """
import os, sys
from narthex.engines.ollama.processes import server_pid
from narthex.host.listeners import listener_pid
from narthex.host.processes import environment
os.setgroups([]), os.setgid(65534), os.setuid(65534)
port = int(sys.argv[1])
print(listener_pid(port), server_pid(port), environment(int(sys.argv[2])))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_server_is_found_by_the_owner_of_its_socket() -> None:
    with little_ollama() as (port, pid):
        words = [sys.executable, "-c", AS_NOBODY, str(port), str(pid)]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["None", str(pid), "{}"]


def test_another_program_on_that_port_is_no_ollama() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert listener_pid(port) == os.getpid()
        assert processes.server_pid(port) is None


def test_a_tunnel_named_otherwise_is_no_ollama() -> None:
    with little_ollama({"LITTLE_NAME": "ssh"}) as (port, pid):
        assert listener_pid(port) == pid
        assert processes.server_pid(port) is None


def run_as(name: str, *words: str) -> subprocess.Popen[bytes]:
    """A process that waits, under another program's name, with these arguments."""
    code = "import time; print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen(
        [name, "-c", code, *words],
        executable=sys.executable,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_newest_runner_of_a_blob_is_found() -> None:
    path = f"/models/blobs/sha256-{BLOB}"
    old = run_as("/usr/lib/ollama/llama-server", "--model", path)
    time.sleep(0.05)  # start times in /proc have a grain of 10 ms
    new = run_as("ollama_llama_server", "--model", path)
    try:
        assert processes.runner_pid(BLOB) == new.pid
        assert processes.runner_pid(f"sha256-{BLOB}") == new.pid
        new.kill()
        new.wait()
        assert processes.runner_pid(f"sha256:{BLOB}") == old.pid
        assert processes.runner_pid(BLOB, server=os.getpid()) == old.pid
        assert processes.runner_pid(BLOB, server=1) in (old.pid, None)
    finally:
        for process in (old, new):
            process.kill()
            process.wait()
    assert processes.runner_pid(BLOB) is None
    assert processes.runner_pid("") is None


def test_a_program_that_only_reads_the_blob_is_no_runner() -> None:
    other = run_as("sha256sum", f"/models/blobs/sha256-{BLOB}")
    try:
        assert processes.runner_pid(BLOB) is None
    finally:
        other.kill()
        other.wait()


def test_an_ollama_of_another_servers_family_is_not_taken() -> None:
    runner = run_as("llama-server", f"sha256-{BLOB}")
    with little_ollama() as (_, server):
        try:
            assert processes.runner_pid(BLOB, server=server) is None
        finally:
            runner.kill()
            runner.wait()


@pytest.mark.parametrize(
    ("line", "name", "uid"),
    [
        ("0::/system.slice/ollama.service", "ollama.service", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service", "ollama.service", 1000),
        ("1:name=systemd:/system.slice/ollama.service", "ollama.service", None),
    ],
)
def test_a_unit_is_read_from_the_control_group(line: str, name: str, uid: int | None) -> None:
    assert processes.unit_in(line) == processes.Unit(name, uid)


@pytest.mark.parametrize(
    "line",
    [
        "0::/",
        "0::/user.slice/user-1000.slice/user@1000.service",
        "0::/user.slice/user-1000.slice/session-3.scope",
        f"0::/system.slice/docker-{BLOB}.scope",
    ],
)
def test_a_session_or_a_container_is_no_unit(line: str) -> None:
    assert processes.unit_in(line) is None


@pytest.mark.parametrize(
    "line",
    [
        f"0::/system.slice/docker-{BLOB}.scope",
        f"12:memory:/docker/{BLOB}",
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{BLOB}.scope/container",
        f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{BLOB}.scope",
    ],
)
def test_a_container_is_read_from_the_control_group(line: str) -> None:
    assert processes.container_in(line) == BLOB


def test_no_container_is_seen_where_there_is_none() -> None:
    assert processes.container_in(f"0::/system.slice/ollama.service\n4:memory:/jobs/{BLOB}") is None


def test_a_server_beside_narthex_in_one_container_is_an_ordinary_process() -> None:
    ours, other = f"12:memory:/docker/{BLOB}", f"12:memory:/docker/{BLOB[::-1]}"
    assert processes.other_container(ours, ours) is None
    assert processes.other_container(other, ours) == BLOB[::-1]
    assert processes.other_container(other, "0::/") == BLOB[::-1]


def make_store(folder: Path) -> Path:
    for name in ("manifests", "blobs"):
        (folder / name).mkdir(parents=True)
    return folder


def test_the_models_folder_is_the_one_the_server_was_told(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with little_ollama({"OLLAMA_MODELS": str(store)}) as (_, pid):
        assert processes.store_of(pid) == str(store)


def test_the_models_folder_is_below_the_servers_home(tmp_path: Path) -> None:
    store = make_store(tmp_path / ".ollama" / "models")
    with little_ollama({"HOME": str(tmp_path)}) as (_, pid):
        assert processes.store_of(pid) == str(store)


def test_a_models_folder_that_is_not_there_is_none(tmp_path: Path) -> None:
    with little_ollama({"OLLAMA_MODELS": str(tmp_path / "nothing")}) as (_, pid):
        assert processes.store_of(pid) is None


def test_the_file_that_a_server_writes_to_is_found(tmp_path: Path) -> None:
    with little_ollama(log=tmp_path / "server.log") as (_, pid):
        assert processes.log_file(pid) == str(tmp_path / "server.log")
    with little_ollama() as (_, pid):
        assert processes.log_file(pid) is None
