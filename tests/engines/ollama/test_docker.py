"""Containers through the real Docker SDK, which talks to a fake daemon on a real Unix socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama import docker
from narthex.testing.fake_docker import FakeDocker

from .little import daemon, facts, free_port, url_of


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with daemon() as running:
        monkeypatch.setenv("DOCKER_HOST", running.host)
        yield running


def only(found: list[docker.Found]) -> docker.Found:
    assert len(found) == 1
    return found[0]


def test_a_container_is_found_by_its_image_whatever_its_name(fake: FakeDocker) -> None:
    told = facts("run") | {"Name": "/llm-box"}
    container = fake.add(told)
    found = only(docker.find_containers())
    assert found.container.name == "llm-box"
    assert found.container.image == "ollama/ollama:latest"
    assert found.sure
    assert found.running
    assert found.published
    assert found.url == url_of(container)
    assert found.pid == container.facts()["State"]["Pid"]
    assert found.env["OLLAMA_KEEP_ALIVE"] == "30m"
    assert found.gpus == ("all",)
    assert found.memory_bytes == 24 << 30
    assert not found.changed
    assert found.compose == found.orchestrated == ""


def test_a_fork_is_found_by_its_command_and_a_stranger_by_its_port(fake: FakeDocker) -> None:
    fork = facts("run")
    fork["Config"]["Image"] = "registry.example/llm/server:1"
    stranger = facts("compose")
    stranger["Config"] |= {"Image": "example/proxy", "Entrypoint": ["/proxy"], "Cmd": None}
    fake.add(fork)
    fake.add(stranger, start=False)
    sure, maybe = docker.find_containers()
    assert sure.sure
    assert not maybe.sure


def test_other_containers_are_left_alone(fake: FakeDocker) -> None:
    other = facts("run")
    other["Config"] |= {
        "Image": "ghcr.io/open-webui/open-webui:main",
        "Entrypoint": ["bash"],
        "Cmd": ["start.sh"],
    }
    other["Config"]["ExposedPorts"] = {"8080/tcp": {}}
    other["HostConfig"]["PortBindings"] = {}
    fake.add(other)
    assert docker.find_containers() == []


def test_a_stopped_container_is_found_as_such(fake: FakeDocker) -> None:
    fake.add(facts("run"), start=False)
    found = only(docker.find_containers())
    assert not found.running
    assert found.pid is None
    assert found.url != "http://127.0.0.1:11434"


def test_running_ones_come_first(fake: FakeDocker) -> None:
    fake.add(facts("run"), start=False)
    fake.add(facts("compose"))
    assert [found.container.name for found in docker.find_containers()] == ["stack-llm-1", "ollama"]


def test_a_compose_service_tells_its_project_card_and_folder(fake: FakeDocker) -> None:
    fake.add(facts("compose"))
    found = only(docker.find_containers())
    assert found.compose == "stack/llm"
    assert found.gpus == ("0",)
    assert found.memory_bytes is None
    assert found.store_inside == "/models"
    assert found.store_mounted


def test_the_models_folder_of_a_volume_is_read_on_the_host(fake: FakeDocker, tmp_path: Path) -> None:
    told = facts("run")
    told["Mounts"][0]["Source"] = str(tmp_path)
    for name in ("manifests", "blobs"):
        (tmp_path / "models" / name).mkdir(parents=True)
    fake.add(told)
    found = only(docker.find_containers())
    assert found.store_inside == "/root/.ollama/models"
    assert found.store == str(tmp_path / "models")


def test_a_models_folder_inside_the_container_is_not_mounted(fake: FakeDocker) -> None:
    fake.add(facts("run") | {"Mounts": []})
    found = only(docker.find_containers())
    assert not found.store_mounted
    assert found.store is None


def changed(**host: Any) -> dict[str, Any]:
    told = facts("run")
    told["HostConfig"] |= host
    return told


def test_a_port_that_is_not_published_is_reached_on_the_bridge(fake: FakeDocker) -> None:
    fake.add(changed(PortBindings={}))
    found = only(docker.find_containers())
    assert found.url == "http://172.17.0.2:11434"
    assert not found.published


def test_a_container_in_the_hosts_network_has_its_own_port(fake: FakeDocker) -> None:
    port = free_port()
    told = changed(NetworkMode="host", PortBindings={})
    told["Config"]["Env"] = [f"OLLAMA_HOST=0.0.0.0:{port}"]
    fake.add(told)
    assert only(docker.find_containers()).url == f"http://127.0.0.1:{port}"


def test_a_container_in_anothers_network_is_reached_through_that_one(fake: FakeDocker) -> None:
    tunnel = facts("compose")
    tunnel["Config"] |= {"Image": "example/vpn", "Entrypoint": ["/vpn"], "Cmd": None, "ExposedPorts": {}}
    outer = fake.add(tunnel)
    fake.add(changed(NetworkMode=f"container:{outer.id}", PortBindings={}))
    found = next(found for found in docker.find_containers() if found.sure)
    assert found.url == url_of(outer)


def test_a_port_on_all_addresses_is_asked_on_the_loopback(fake: FakeDocker) -> None:
    port = free_port()
    fake.add(changed(PortBindings={"11434/tcp": [{"HostIp": "", "HostPort": str(port)}]}))
    assert only(docker.find_containers()).url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("host", "gpus"),
    [
        ({"DeviceRequests": None}, ()),
        ({"DeviceRequests": [{"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu"]]}]}, ("×2",)),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1"]}]}, ("1",)),
        ({"DeviceRequests": None, "Runtime": "nvidia"}, ("all",)),
        ({"DeviceRequests": None, "Devices": [{"PathOnHost": "/dev/kfd"}]}, ("/dev/kfd",)),
    ],
)
def test_the_cards_of_a_container_are_what_it_asked_for(
    fake: FakeDocker, host: dict[str, Any], gpus: tuple[str, ...]
) -> None:
    fake.add(changed(**host))
    assert only(docker.find_containers()).gpus == gpus


def test_who_would_start_another_in_its_place_is_told(fake: FakeDocker) -> None:
    told = facts("run")
    told["Config"]["Labels"] |= {"com.docker.swarm.service.id": "x"}
    fake.add(told)
    assert only(docker.find_containers()).orchestrated == "Docker Swarm"


def test_a_process_number_of_another_machine_means_nothing_here(fake: FakeDocker) -> None:
    container = fake.add(facts("run"))
    container.facts()["State"]["Pid"] = 1  # as in a virtual machine: here that is something else
    assert only(docker.find_containers()).pid is None


def test_without_a_daemon_there_is_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(docker.NoDocker, match="no Docker daemon answers"):
        docker.find_containers()


def test_a_daemon_that_refuses_is_told_in_its_words(fake: FakeDocker) -> None:
    fake.refuse("list", 500, "the store is locked")
    with pytest.raises(docker.NoDocker, match="the store is locked"):
        docker.find_containers()


def test_an_unknown_container_is_told(fake: FakeDocker) -> None:
    with pytest.raises(docker.NoDocker, match="No such container"):
        docker.look("nothing")


def test_a_socket_that_hangs_up_is_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind("d.sock")
        deaf.listen()
        monkeypatch.setenv("DOCKER_HOST", "unix://d.sock")
        deaf.close()
        with pytest.raises(docker.NoDocker):
            docker.find_containers()


@pytest.mark.parametrize(
    ("host", "remote"),
    [("", None), ("unix:///var/run/docker.sock", None), ("tcp://box:2375", "box"), ("ssh://me@box", "box")],
)
def test_a_daemon_on_another_machine_is_known(
    monkeypatch: pytest.MonkeyPatch, host: str, remote: str | None
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert docker.remote_host() == remote


def test_the_engines_socket_is_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    assert docker.socket_path() == tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.7:2375")
    assert docker.socket_path() is None
