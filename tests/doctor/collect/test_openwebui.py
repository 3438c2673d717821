"""OpenWebUI as the collector sees it: as a process, in a container, and what its base URLs lead to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.engines.ollama.little import little_ollama

from narthex.doctor.collect import openwebui
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.gather import gather
from narthex.doctor.collect.openwebui import base_urls
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.testing.docker.container import Write
from narthex.testing.fake_docker import FakeDocker
from narthex.testing.fake_openwebui import FakeOpenWebUI, install

from .boxes import box
from .strangers import closed_port, silent, web_page

pytestmark = pytest.mark.usefixtures("no_docker")


def look() -> Collected:
    return gather(Scope(), collectors=(openwebui,))


def readings(found: Collected, name: str) -> list[Reading]:
    return [row for row in found.readings if row.name == name]


class Process:
    """An ``open-webui serve`` of this machine, whose backends are as told."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(install(folder)), "serve", "--port", str(closed_port())],
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def end(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Any]:
    running: list[Process] = []

    def start(**env: str) -> Process:
        running.append(Process(tmp_path, env))
        return running[-1]

    yield start
    for process in running:
        process.end()


def test_a_process_is_found_with_its_version_and_settings(starts: Any) -> None:
    url = starts(
        OLLAMA_BASE_URL="http://127.0.0.1:1",
        DEFAULT_MODEL_PARAMS='{"num_ctx":8192}',
        ENABLE_TITLE_GENERATION="false",
        WEBUI_SECRET_KEY="very-secret",
        OPENAI_API_KEY="sk-very-secret",
    ).url
    found = look()
    assert [(row.about, row.value) for row in readings(found, "openwebui.answers")] == [(url, True)]
    assert readings(found, "openwebui.version")[0].value == "0.12.4"
    assert readings(found, "openwebui.health")[0].value is True
    assert readings(found, "openwebui.env")[0].value == {
        "DEFAULT_MODEL_PARAMS": '{"num_ctx":8192}',
        "ENABLE_TITLE_GENERATION": "false",
        "OLLAMA_BASE_URL": "http://127.0.0.1:1",
    }
    assert "very-secret" not in str(found)


def test_each_backend_of_a_process_is_asked(starts: Any) -> None:
    with little_ollama() as (port, _), web_page() as page, silent() as hung:
        urls = [f"http://127.0.0.1:{each}" for each in (port, closed_port(), page, hung)]
        starts(OLLAMA_BASE_URLS=";".join(urls))
        rows = {row.about: row for row in readings(look(), "openwebui.backend")}
    well, closed, page_there, hanging = (rows[url] for url in urls)
    assert well.value["reachable"]
    assert well.text.endswith("from this machine: Ollama 0.33.0-rc2 answers")
    assert "refused" in closed.value["error"]
    assert page_there.value["error"] == "a web page came back (HTTP 200)"
    assert not hanging.value["reachable"]
    assert not any(row.value["from_inside"] for row in rows.values())  # no container: no inside


def test_a_password_in_a_base_url_is_neither_shown_nor_sent(starts: Any) -> None:
    starts(OLLAMA_BASE_URL=f"http://me:hidden@127.0.0.1:{closed_port()}")
    found = look()
    assert "hidden" not in str(found)
    assert "which narthex does not send" in readings(found, "openwebui.backend")[0].gap


def test_the_internet_is_not_asked(starts: Any) -> None:
    starts(OLLAMA_BASE_URL="http://8.8.8.8:11434")
    row = readings(look(), "openwebui.backend")[0]
    assert row.value is None
    assert "an address of the internet, which is not asked" in row.gap


def test_a_killed_one_is_not_found(starts: Any) -> None:
    starts(OLLAMA_BASE_URL="http://127.0.0.1:1").end()
    assert look() == Collected()


# --- in a container ---


class Program:
    """The fake OpenWebUI as a container's program."""

    fake: FakeOpenWebUI

    def start(self, env: Mapping[str, str], port: int, write: Write) -> int:
        self.fake = FakeOpenWebUI(port=port)
        self.fake.__enter__()
        return os.getpid()

    def stop(self) -> None:
        self.fake.vanish()

    def exit_code(self) -> int | None:
        return None


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    def make(facts: Mapping[str, Any]) -> Program | None:
        return Program() if "open-webui" in facts["Name"] else None

    with FakeDocker(make) as running:
        monkeypatch.setenv("DOCKER_HOST", running.host)
        yield running


def webui_box(*env: str, networks: tuple[str, ...] = ("stack",), **host: Any) -> dict[str, Any]:
    told = box("open-webui", env=list(env), ports={"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]})
    told["HostConfig"] |= host
    told["NetworkSettings"] = {"Networks": {name: {"Aliases": []} for name in networks}}
    return told


def ollama_box(*networks: str) -> dict[str, Any]:
    told = box("ollama", labels={"com.docker.compose.service": "llm"})
    told["NetworkSettings"] = {"Networks": {name: {"Aliases": ["brain"]} for name in networks}}
    return told


@pytest.fixture
def docker_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``docker`` whose ``exec`` runs the program here: this machine is the inside of the container."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "assert sys.argv[1] == 'exec' and len(sys.argv[2]) == 64, sys.argv\n"
        "if sys.argv[3] == 'python3': sys.exit('OCI runtime exec failed: \"python3\": not found in $PATH')\n"
        f"os.execv({sys.executable!r}, ['python', *sys.argv[4:]])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.mark.usefixtures("docker_command")
def test_base_urls_are_asked_from_inside_the_container(daemon: FakeDocker) -> None:
    with little_ollama() as (port, _):
        dead = f"http://127.0.0.1:{closed_port()}"
        daemon.add(webui_box(f"OLLAMA_BASE_URLS=http://127.0.0.1:{port};{dead}"))
        found = look()
    assert readings(found, "openwebui.answers")[0].value is True
    rows = {row.about: row for row in readings(found, "openwebui.backend")}
    assert rows[f"http://127.0.0.1:{port}"].value["reachable"]
    assert "from inside its container" in rows[dead].text
    assert rows[dead].value["from_inside"]
    assert not rows[dead].value["reachable"]


PORT = closed_port()
REASONS = [
    (webui_box("OLLAMA_BASE_URL=http://localhost:11434"), "is the container itself"),
    (webui_box("OLLAMA_BASE_URL=/ollama"), "without --add-host=host.docker.internal:host-gateway"),
    (webui_box("OLLAMA_BASE_URL=http://ollama:11434", networks=("web",)), "is on other networks (stack)"),
    (webui_box("OLLAMA_BASE_URL=http://olama:11434"), "no container and no service is called «olama»"),
    (
        webui_box(
            "OLLAMA_BASE_URL=http://localhost:9",
            f"PORT={PORT}",
            f"OLLAMA_HOST=127.0.0.1:{PORT}",  # where the fake daemon lets its program listen
            NetworkMode="host",
        ),
        "nothing listens on port 9 of this machine",
    ),
]


@pytest.mark.parametrize(("told", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_without_docker_exec_the_networks_tell(
    daemon: FakeDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: dict[str, Any], reason: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    daemon.add(ollama_box("stack"))
    daemon.add(told)
    row = readings(look(), "openwebui.backend")[0]
    assert row.value["reachable"] is False
    assert row.value["from_inside"] is False
    assert reason in row.text


@pytest.mark.parametrize("name", ["ollama", "llm", "brain"])
def test_a_name_on_a_shared_network_can_not_be_told_without_asking(
    daemon: FakeDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    daemon.add(ollama_box("stack"))
    daemon.add(webui_box(f"OLLAMA_BASE_URL=http://{name}:11434"))
    row = readings(look(), "openwebui.backend")[0]
    assert row.value is None
    assert "there is no docker command here" in row.gap


@pytest.mark.parametrize(
    ("env", "in_container", "expected"),
    [
        ({}, False, ["http://localhost:11434"]),
        ({"OLLAMA_BASE_URL": "/ollama"}, True, ["http://host.docker.internal:11434"]),
        ({"OLLAMA_BASE_URL": "/ollama", "USE_OLLAMA_DOCKER": "true"}, True, ["http://localhost:11434"]),
        ({"OLLAMA_BASE_URLS": "http://a:1; http://b:2/"}, True, ["http://a:1", "http://b:2"]),
        ({"OLLAMA_API_BASE_URL": "http://a:1/api"}, True, ["http://a:1"]),
        ({"ENABLE_OLLAMA_API": "False", "OLLAMA_BASE_URL": "http://a:1"}, True, []),
    ],
)
def test_base_urls_as_openwebui_reads_them(
    env: dict[str, str], in_container: bool, expected: list[str]
) -> None:
    assert base_urls(env, in_container=in_container) == expected
