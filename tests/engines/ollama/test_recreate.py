"""A container's description becomes that of its twin."""

from __future__ import annotations

from typing import Any

from narthex.engines.ollama.docker import ASIDE_LABEL
from narthex.engines.ollama.recreate import changed, endpoint, first_network, other_networks, twin

from .little import facts


def running(name: str) -> dict[str, Any]:
    told = facts(name, port=11500)
    told["NetworkSettings"]["Ports"] = {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": "11500"}]}
    return told


def test_the_twin_keeps_all_but_the_environment() -> None:
    told = running("run")
    body = twin(told, "ollama/ollama:latest", {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_KEEP_ALIVE": None})
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in body["Env"]
    assert not any(row.startswith("OLLAMA_KEEP_ALIVE") for row in body["Env"])
    assert "OLLAMA_FLASH_ATTENTION=1" in body["Env"]
    for name in ("DeviceRequests", "RestartPolicy", "LogConfig", "Memory", "ShmSize", "NetworkMode"):
        assert body["HostConfig"][name] == told["HostConfig"][name]
    assert body["HostConfig"]["Binds"] == ["ollama:/root/.ollama"]
    assert body["HostConfig"]["PortBindings"]["11434/tcp"][0]["HostPort"] == "11500"
    assert body["Cmd"] == ["serve"]
    assert body["Labels"][ASIDE_LABEL] == told["Id"]
    assert body["Labels"]["org.opencontainers.image.version"] == "24.04"


def test_a_host_name_that_docker_gave_is_not_kept_but_a_users_is() -> None:
    told = running("run")
    assert "Hostname" not in twin(told, "x", {})
    told["Config"]["Hostname"] = "llm"
    assert twin(told, "x", {})["Hostname"] == "llm"


def test_a_port_that_docker_chose_stays() -> None:
    told = running("run")
    told["HostConfig"]["PortBindings"] = {"11434/tcp": [{"HostIp": "", "HostPort": ""}]}
    assert twin(told, "x", {})["HostConfig"]["PortBindings"]["11434/tcp"][0]["HostPort"] == "11500"


def test_a_volume_without_a_name_is_carried_over() -> None:
    told = running("compose")
    binds = twin(told, "x", {})["HostConfig"]["Binds"]
    name = told["Mounts"][1]["Name"]
    assert binds == [f"{name}:/root/.ollama"]
    told["Mounts"][1]["RW"] = False
    assert twin(told, "x", {})["HostConfig"]["Binds"] == [f"{name}:/root/.ollama:ro"]


def test_networks_names_and_addresses_are_kept() -> None:
    told = running("compose")
    assert first_network(told) == "stack_default"
    assert other_networks(told) == ["monitoring"]
    body = twin(told, "x", {})
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"stack_default": {"Aliases": ["llm", "ollama"]}}
    assert endpoint(told, "monitoring") == {"IPAMConfig": {"IPv4Address": "10.9.0.20"}, "Aliases": ["llm"]}


def test_dockers_own_network_takes_no_names() -> None:
    body = twin(running("run"), "x", {})
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"bridge": {}}


def test_in_anothers_network_ports_and_names_are_left_out() -> None:
    told = running("run")
    told["HostConfig"]["NetworkMode"] = f"container:{told['Id']}"
    told["NetworkSettings"]["Networks"] = {}
    body = twin(told, "x", {})
    assert body["HostConfig"]["PortBindings"] == {}
    assert "ExposedPorts" not in body
    assert body["NetworkingConfig"]["EndpointsConfig"] == {}
    assert other_networks(told) == []


def test_variables_are_changed_added_and_taken_away() -> None:
    assert changed(["A=1", "B=2=3", "C="], {"A": "9", "C": None, "D": "x"}) == ["A=9", "B=2=3", "D=x"]
    assert changed(None, {}) == []
