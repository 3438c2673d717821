"""Ollama as the collector sees it: real servers, a killed one, strangers at its port, containers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engines.ollama.little import answers, daemon, facts, little_ollama, url_of

from narthex.doctor.collect import ollama
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.gather import gather
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.engines.ollama.api import Api
from narthex.testing.fake_ollama import FakeOllama

from .strangers import closed_port, dripping, silent, web_page

pytestmark = pytest.mark.usefixtures("no_docker")


def look() -> Collected:
    return gather(Scope(), collectors=(ollama,))


def readings(found: Collected, name: str, about: str = "") -> list[Reading]:
    return [row for row in found.readings if row.name == name and about in (row.about, "")]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """Make OLLAMA_HOST name that port; its URL."""

    def name(port: int) -> str:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        return f"http://127.0.0.1:{port}"

    return name


def test_where_none_answers_it_is_said_what_was_tried(named: Callable[[int], str]) -> None:
    url = named(closed_port())
    row = readings(look(), "ollama.answers", url)[0]
    assert row.value is False
    assert row.text.startswith(f"no Ollama at {url} (OLLAMA_HOST): the connection was refused")
    assert "containers: no Docker daemon answers here" in row.text


def test_an_address_that_is_none_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "ftp://somewhere")
    assert any("not «ftp»" in gap.why for gap in look().skipped)


def test_a_web_page_is_no_ollama(named: Callable[[int], str]) -> None:
    with web_page() as port:
        url = named(port)
        row = readings(look(), "ollama.answers", url)[0]
    assert row.value is False
    assert "a web page came back, not Ollama's answer" in row.text


@pytest.mark.parametrize("stranger", [silent, dripping])
def test_a_server_that_hangs_is_left_in_time(named: Callable[[int], str], stranger: Any) -> None:
    with stranger() as port:
        url = named(port)
        found = look()
    assert not any(gap.what == ollama.NAME for gap in found.skipped), "the collector itself was not late"
    row = readings(found, "ollama.answers", url)[0]
    assert row.value is False
    assert "no answer" in row.text


def test_a_process_is_found_without_being_named() -> None:
    with little_ollama(env={"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_API_KEY": "secret"}) as (port, pid):
        found = look()
    url = f"http://127.0.0.1:{port}"
    assert readings(found, "ollama.answers", url)[0].value is True
    assert readings(found, "ollama.version", url)[0].value == "0.33.0-rc2"
    place = readings(found, "ollama.place", url)[0]
    assert place.value == "process"
    assert f"process {pid}" in place.text
    assert readings(found, "ollama.env", url)[0].value["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert "secret" not in str(found)


def test_a_container_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon() as docker:
        monkeypatch.setenv("DOCKER_HOST", docker.host)
        container = docker.add(facts("run"))
        url = url_of(container)
        answers(url)
        found = look()
    assert readings(found, "ollama.place", url)[0].value == "container"
    assert "container «ollama»" in readings(found, "ollama.place", url)[0].text


def test_a_stopped_container_is_told_where_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, named: Callable[[int], str]
) -> None:
    url = named(closed_port())
    with daemon() as docker:
        monkeypatch.setenv("DOCKER_HOST", docker.host)
        docker.add(facts("run"), start=False)
        row = readings(look(), "ollama.answers", url)[0]
    assert "container «ollama»: " in row.text


def test_a_docker_that_hangs_hides_no_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: Callable[[int], str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, little_ollama() as (port, _):
        listener.bind(str(tmp_path / "hung.sock"))
        listener.listen(64)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/hung.sock")
        url = named(port)
        found = look()
    assert readings(found, "ollama.answers", url)[0].value is True
    assert any("Docker did not list its containers" in gap.why for gap in found.skipped)


TUNNEL = """
import socket, sys, threading
open("/proc/self/comm", "w").write("ssh")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def pump(one, other):
    while data := one.recv(65536):
        other.sendall(data)
    other.shutdown(socket.SHUT_WR)
while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=pump, args=(near, far), daemon=True).start()
    threading.Thread(target=pump, args=(far, near), daemon=True).start()
"""


@pytest.fixture
def tunnel() -> Iterator[Callable[[int], int]]:
    """A process named ssh that forwards a port of its own to another."""
    running: list[subprocess.Popen[str]] = []

    def start(port: int) -> int:
        words = [sys.executable, "-c", TUNNEL, str(port)]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        return int(running[-1].stdout.readline())

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_behind_a_tunnel_the_machine_says_nothing_of_it(tunnel: Callable[[int], int]) -> None:
    with little_ollama(env={"LITTLE_NAME": "python"}) as (port, _):
        url = f"http://127.0.0.1:{tunnel(port)}"
        found = look()
    assert readings(found, "ollama.answers", url)[0].value is True
    assert readings(found, "ollama.place", url)[0].value == "elsewhere"
    gaps = [gap.why for gap in found.skipped if gap.what == f"Ollama at {url}"]
    assert any("«ssh», no Ollama: a tunnel or a proxy" in why for why in gaps)


def test_a_recorded_machine_has_no_service_of_this_one(tmp_path: Path) -> None:
    assert ollama.collect(Scope(root=tmp_path)) == Collected()


# --- a real HTTP server before a real llama-server ---


@pytest.mark.engine
def test_models_and_what_is_loaded_are_read_and_nothing_is_loaded(
    fake_ollama: Callable[..., FakeOllama], gemma: Path, named: Callable[[int], str]
) -> None:
    fake = fake_ollama(models={"gemma-demo": gemma})
    url = named(fake.port)
    found = look()
    assert readings(found, "ollama.models", url)[0].value[0]["name"] == "gemma-demo:latest"
    assert not readings(found, "ollama.resident")
    assert fake.runner_pids() == []

    Api(fake.url).preload("gemma-demo", {"num_ctx": 512}, keep_alive=600, timeout_s=60)
    row = readings(look(), "ollama.resident", "gemma-demo:latest")[0]
    assert row.value["num_ctx"] == 512
    assert row.value["size_bytes"] > 0
    assert 0 < row.value["seconds_left"] <= 600
    assert "context 512" in row.text

    fake.kill()
    assert readings(look(), "ollama.answers", url)[0].value is False


LOADING = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
open("/proc/self/comm", "w").write("ollama")
runner = subprocess.Popen(["llama-server", "-c", "read line", "--model", "blob"], executable="/bin/sh",
                          stdin=subprocess.PIPE)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "0.12.3", "models": []}).encode())
    def log_message(self, *args):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, runner.pid, flush=True)
server.serve_forever(0.02)
"""


def test_a_runner_whose_model_is_not_listed_is_loading(named: Callable[[int], str]) -> None:
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port, pid = (int(word) for word in server.stdout.readline().split())
            url = named(port)
            row = readings(look(), "ollama.loading", str(pid))[0]
        finally:
            server.kill()
    assert row.value["url"] == url
    assert row.value["moves"] is False
    assert "is not in /api/ps: it is still loading, and does nothing just now" in row.text
