"""The Docker engine and its containers: the real SDK asks a fake daemon on a real socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect import container_logs, containers, disks, docker, docker_view, openwebui, proxies
from narthex.doctor.collect.gather import Collected, Scope, gather
from narthex.testing.docker.container import STDERR, STDOUT
from narthex.testing.fake_docker import FakeDocker

from .boxes import box, put_state

Host = Callable[..., Scope]


def row(found: Collected, name: str, about: str = "") -> Any:
    (reading,) = [row for row in found.readings if row.name == name and row.about == about]
    return reading


@contextlib.contextmanager
def silent_engine() -> Iterator[str]:
    """Takes connections and never answers."""
    folder = Path(f"/tmp/silent-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    path = folder / "docker.sock"
    held = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            path.unlink()
            folder.rmdir()


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Root may open everything: another user looks."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_engine_that_answers_tells_how_it_is_set_up(fake_docker: FakeDocker, host: Host) -> None:
    fake_docker.info = {
        "Runtimes": {"runc": {}, "nvidia": {}},
        "DefaultRuntime": "runc",
        "CgroupDriver": "systemd",
        "OperatingSystem": "Ubuntu 22.04.4 LTS",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "DockerRootDir": "/var/lib/docker",
    }
    found = docker.collect(host("healthy"))
    assert row(found, "docker.engine").value == "ok"
    assert row(found, "docker.engine").text == "Docker 27.5.1 answers (Ubuntu 22.04.4 LTS)"
    assert row(found, "docker.version").value == "27.5.1"
    assert row(found, "docker.runtimes").value == ["nvidia", "runc"]
    assert row(found, "docker.cgroup_driver").text == "docker info: cgroup driver systemd"
    assert row(found, "docker.rootless").value is False
    assert row(found, "docker.desktop").value is False
    assert row(found, "docker.installs").value == ["apt"]
    assert row(found, "docker.toolkit").value == "/usr/bin/nvidia-ctk"
    assert row(found, "docker.cdi").value == []
    assert row(found, "docker.daemon_json", "/etc/docker/daemon.json").value == "ok"
    assert [fact.text for fact in found.facts] == [
        "Docker 27.5.1 answers (Ubuntu 22.04.4 LTS).",
        "Docker has the runtime nvidia.",
    ]


@pytest.mark.usefixtures("no_docker")
def test_an_engine_that_is_not_installed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    if Path("/var/run/docker.sock").exists():
        pytest.skip("this machine has a Docker engine")
    scope = host("no_nvidia")
    found = docker.collect(scope)
    assert row(found, "docker.engine").value == "absent"
    assert row(found, "docker.engine").text == (
        "there is no /var/run/docker.sock and no dockerd: no Docker engine is installed here"
    )
    assert row(found, "docker.version").gap.startswith("can't tell, because there is no /var/run/docker.sock")
    assert row(found, "docker.installs").value == []
    assert row(found, "docker.toolkit").value == ""
    assert containers.collect(scope) == Collected()
    assert container_logs.collect(scope) == Collected()


def test_an_installed_engine_that_does_not_run_is_down(no_docker: Path, host: Host) -> None:
    scope = host("healthy")
    found = docker.collect(scope)
    assert row(found, "docker.engine").value == "down"
    assert row(found, "docker.engine").text == (
        f"there is no {no_docker}, and /usr/bin/dockerd is installed: the Docker engine does not run"
    )
    assert row(found, "docker.cgroup_driver").value == "systemd"  # as its settings say
    (gap,) = containers.collect(scope).readings
    assert gap.gap.startswith("can't tell, because there is no ")


def test_a_socket_at_which_nobody_listens_any_more(no_docker: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(no_docker))
    found = docker.collect(Scope())
    assert row(found, "docker.engine").value == "down"
    assert row(found, "docker.engine").text.endswith("is there and nobody listens: Connection refused")


def test_an_engine_that_hangs_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_view, "ASK_S", 1)
    with silent_engine() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        found = docker.collect(Scope())
    assert row(found, "docker.engine").value == "down"
    assert row(found, "docker.engine").text == (
        "the Docker engine takes the connection and does not answer within 1 s"
    )


@pytest.mark.parametrize(
    ("address", "elsewhere"),
    [
        ("unix:///run/docker.sock", False),
        ("tcp://127.0.0.1:2375", False),
        ("tcp://[::1]:2375", False),
        ("ssh://ada@gpu-box", True),
        ("tcp://192.0.2.7:2376", True),
    ],
)
def test_containers_of_another_machine_have_no_port_and_no_folder_here(
    monkeypatch: pytest.MonkeyPatch, address: str, elsewhere: bool
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    published = {"Ports": {"8080/tcp": [{"HostIp": "", "HostPort": "3000"}]}}
    facts = {"Config": {"Env": []}, "State": {"Running": True}, "NetworkSettings": published}
    box = docker_view.SeenContainer(id="1", name="webui", role="openwebui", facts=facts)
    scope = Scope()
    scope.once("docker", lambda: docker_view.DockerView(engine="ok", containers=(box,)))
    found = [spot for spot in openwebui.find(scope) if spot.container is not None]
    assert [spot.url for spot in found] == ([] if elsewhere else ["http://127.0.0.1:3000"])


def test_a_socket_that_this_user_may_not_open(no_docker: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(no_docker))
        server.listen()
        no_docker.chmod(0)
        with nobody():
            found = docker.collect(Scope())
    assert row(found, "docker.engine").value == "denied"
    assert (
        "Permission denied; root, or a user in the group docker, may ask Docker"
        in row(found, "docker.engine").text
    )


def test_a_home_that_may_not_be_entered_breaks_nothing(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = host("no_nvidia")
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with nobody():
        found = gather(scope, collectors=(docker, disks, containers, proxies))
    home.chmod(0o700)
    assert not [gap for gap in found.skipped if gap.broke]


@pytest.mark.usefixtures("no_docker")
def test_two_dockers_and_settings_with_a_comma_too_many(host: Host) -> None:
    found = docker.collect(host("two_dockers"))
    assert row(found, "docker.installs").value == ["snap", "apt"]
    assert row(found, "docker.installs").text == "Docker is installed 2 times: snap, apt"
    broken = row(found, "docker.daemon_json", "/etc/docker/daemon.json")
    assert broken.value != "ok"
    assert broken.text.startswith("/etc/docker/daemon.json does not parse: ")
    assert row(found, "docker.daemon_json", "/var/snap/docker/current/config/daemon.json").value == "ok"


@pytest.mark.usefixtures("no_docker")
def test_a_cdi_file_names_the_driver_that_it_was_made_for(host: Host) -> None:
    found = docker.collect(host("driver_mismatch"))
    assert row(found, "docker.cdi").value == ["/etc/cdi/nvidia.yaml"]
    assert row(found, "docker.cdi_driver", "/etc/cdi/nvidia.yaml").value == "550.54.14"


def test_containers_with_and_without_gpu(fake_docker: FakeDocker) -> None:
    everywhere = {"11434/tcp": [{"HostIp": "0.0.0.0", "HostPort": "0"}]}
    ollama = fake_docker.add(box("ollama", gpu=True, ports=everywhere, command=["serve"]))
    fake_docker.add(
        box("open-webui", env=["OLLAMA_BASE_URL=http://ollama:11434", "WEBUI_SECRET_KEY=hunter2"])
    )
    found = containers.collect(Scope())
    one = row(found, "container", "ollama")
    assert one.value["role"] == "ollama"
    assert one.value["gpu_request"] == ["all"]
    port = ollama.facts()["NetworkSettings"]["Ports"]["11434/tcp"][0]["HostPort"]
    assert one.value["ports"] == [{"host_ip": "0.0.0.0", "host_port": int(port), "port": 11434}]
    assert one.text == (
        f"container ollama (ollama/ollama:latest, ollama): running, GPUs asked for: all, "
        f"0.0.0.0:{port}->11434/tcp"
    )
    other = row(found, "container", "open-webui")
    assert other.value["role"] == "openwebui"
    assert other.value["gpu_request"] == []
    assert other.value["env"] == {"OLLAMA_BASE_URL": "http://ollama:11434"}
    assert "no GPU asked for" in other.text
    assert "hunter2" not in str(found)
    assert "Container ollama (ollama/ollama:latest) runs with GPUs: all." in [
        fact.text for fact in found.facts
    ]


def test_one_that_was_ended_for_memory_and_one_that_starts_again_and_again(fake_docker: FakeDocker) -> None:
    killed = fake_docker.add(box("ollama"), start=False)
    put_state(killed, Status="exited", ExitCode=137, OOMKilled=True)
    again = fake_docker.add(box("comfyui", RestartCount=41), start=False)
    put_state(again, Status="restarting", Running=True, Restarting=True, ExitCode=1)
    found = containers.collect(Scope())
    one = row(found, "container", "ollama")
    assert (one.value["exit_code"], one.value["oom_killed"]) == (137, True)
    assert "exited, exit code 137, ended by the kernel for memory (OOMKilled)" in one.text
    two = row(found, "container", "comfyui")
    assert (two.value["state"], two.value["restarts"]) == ("restarting", 41)
    assert "restarting, exit code 1, restarted 41 times by Docker" in two.text
    assert not found.facts


def test_the_engines_own_words_of_a_failed_start_are_told(fake_docker: FakeDocker) -> None:
    words = 'could not select device driver "" with capabilities: [[gpu]]'
    put_state(fake_docker.add(box("ollama", gpu=True), start=False), ExitCode=128, Error=words)
    found = row(containers.collect(Scope()), "container", "ollama")
    assert found.value["error"] == words
    assert f"«{words}»" in found.text


@pytest.mark.parametrize(
    ("told", "role"),
    [
        (box("x", image="registry.example/llm/ollama-rocm:1"), "ollama"),
        (box("x", image="registry.example/own:1", command=["/bin/ollama", "serve"]), "ollama"),
        (box("x", image="registry.example/own:1", env=["WEBUI_AUTH=False"]), "openwebui"),
        (box("x", image="own", labels={"org.opencontainers.image.title": "open-webui"}), "openwebui"),
        (box("x", image="ghcr.io/open-webui/open-webui:ollama"), "openwebui"),
        (box("x", image="own", ports={"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}), "comfyui"),
        (box("llama"), "llama_server"),
        (box("x", image="own", command=["/app/llama-server", "-m", "x.gguf"]), "llama_server"),
        (box("db"), "other"),
    ],
)
def test_what_a_container_is_for_is_told_by_more_than_its_name(
    fake_docker: FakeDocker, told: dict[str, Any], role: str
) -> None:
    fake_docker.add(told)
    (found,) = containers.collect(Scope()).readings
    assert found.value["role"] == role


def test_secrets_of_a_command_line_are_left_out(fake_docker: FakeDocker) -> None:
    words = ["/app/llama-server", "--api-key", "hunter2", "--port", "8080"]
    fake_docker.add(box("llama", command=words))
    (found,) = containers.collect(Scope()).readings
    assert found.value["command"][-2:] == ["--port", "8080"]
    assert "hunter2" not in str(found)


def test_logs_since_the_last_start_of_both_streams(fake_docker: FakeDocker) -> None:
    container = fake_docker.add(box("ollama"))
    container.write(STDERR, b"time=x level=INFO msg=started")
    container.write(STDOUT, b"[GIN] 200")
    fake_docker.add(box("db")).write(STDOUT, b"ready")
    (text,) = container_logs.collect(Scope()).texts
    assert (text.kind, text.name) == ("ollama_log", "docker logs ollama")
    first, second = text.data.decode().splitlines()
    assert first.endswith("Z time=x level=INFO msg=started")
    assert second.endswith("Z [GIN] 200")


def test_the_end_of_the_former_life_is_read_where_docker_started_it_again(fake_docker: FakeDocker) -> None:
    steady = fake_docker.add(box("ollama"), start=False)
    stumbled = fake_docker.add(box("comfyui", RestartCount=1), start=False)
    for container in (steady, stumbled):
        container.write(STDERR, b"before")
        past = container.rows[0].at_ns - 60 * 10**9
        container.rows[0] = container.rows[0]._replace(at_ns=past)
        container.start()
        container.write(STDERR, b"after")
    texts = {text.name: text.data for text in container_logs.collect(Scope()).texts}
    assert b"before" not in texts["docker logs ollama"]
    assert b"before" in texts["docker logs comfyui"]
    since = (past + 10**9) / 1e9
    (text, _) = container_logs.collect(Scope(since=since)).texts
    assert b"before" not in text.data


def test_of_a_long_log_the_start_and_the_end_are_read(
    fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_logs, "_LINES", 10)
    container = fake_docker.add(box("ollama"))
    container.write(STDERR, b"inference compute")
    start = container.rows[0].at_ns
    for number in range(30):
        container.write(STDERR, b"line %d" % number)
        container.rows[-1] = container.rows[-1]._replace(at_ns=start + (100 + number) * 10**9)
    (text,) = container_logs.collect(Scope()).texts
    lines = text.data.decode().splitlines()
    assert len(lines) == 11
    assert lines[0].endswith("inference compute")
    assert lines[-1].endswith("line 29")


def test_containers_that_the_engine_does_not_tell_of_are_a_gap(fake_docker: FakeDocker) -> None:
    fake_docker.add(box("db"), start=False)
    fake_docker.refuse("inspect", 500, "the container's lock is held")
    scope = Scope()
    assert row(docker.collect(scope), "docker.engine").value == "ok"
    (gap,) = containers.collect(scope).readings
    assert "the container's lock is held" in gap.gap


def test_a_log_that_docker_does_not_keep_is_a_gap(fake_docker: FakeDocker) -> None:
    fake_docker.add(box("ollama"))
    fake_docker.refuse("logs", 501, "configured logging driver does not support reading")
    (gap,) = container_logs.collect(Scope()).skipped
    assert gap.what == "docker logs ollama"
    assert "configured logging driver does not support reading" in gap.why
