"""Containers of the stack as ``docker inspect`` tells of them, secrets left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.docker_view import WAIT_S, SeenContainer, docker_view
from narthex.doctor.collect.safe_env import safe_command, safe_env
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.doctor.redact import hide_secrets
from narthex.engines.ollama.docker import gpus_asked

NAME = "containers"
TIME_S = WAIT_S


def collect(scope: Scope) -> Collected:
    """All of them: another's container may hold the card."""
    view = docker_view(scope)
    if view.engine == "absent":
        return Collected()
    if view.engine != "ok":
        return Collected(readings=(gap("container", view.why),))
    seen = tuple(_reading(container) for container in view.containers)
    unseen = (gap("container", view.unseen),) if view.unseen else ()
    return Collected(readings=(*seen, *unseen), facts=tuple(_facts(seen)))


def _reading(container: SeenContainer) -> Reading:
    value = describe(container)
    return Reading(name="container", value=value, text=_sentence(container.name, value), about=container.name)


def describe(container: SeenContainer) -> dict[str, Any]:
    """What names.py says of a container."""
    config, state = container.facts["Config"], container.state
    host, network = container.facts.get("HostConfig") or {}, container.facts.get("NetworkSettings") or {}
    words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    labels = config.get("Labels") or {}
    compose = [labels.get(f"com.docker.compose.{part}", "") for part in ("project", "service")]
    policy = host.get("RestartPolicy") or {}
    return {
        "id": container.id[:12],
        "role": container.role,
        "image": config.get("Image", ""),
        "command": safe_command([str(word) for word in words]),
        "state": state.get("Status", ""),
        "health": (state.get("Health") or {}).get("Status", ""),
        "exit_code": state.get("ExitCode"),
        "error": hide_secrets(str(state.get("Error") or "")),
        "oom_killed": bool(state.get("OOMKilled")),
        "restarts": int(container.facts.get("RestartCount") or 0),
        "restart_policy": policy.get("Name", ""),
        "gpu_request": list(gpus_asked(host, container.all_env)),
        "runtime": host.get("Runtime", ""),
        "ports": _ports(network, host),
        "env": safe_env(container.all_env),
        "network_mode": host.get("NetworkMode", ""),
        "networks": sorted(network.get("Networks") or {}),
        "extra_hosts": list(host.get("ExtraHosts") or ()),
        "log_driver": (host.get("LogConfig") or {}).get("Type", ""),
        "started_at": state.get("StartedAt", ""),
        "finished_at": state.get("FinishedAt", ""),
        "memory_bytes": host.get("Memory") or None,
        "compose": "/".join(filter(None, compose)),
    }


def _ports(network: dict[str, Any], host: dict[str, Any]) -> list[dict[str, Any]]:
    """Published ports; of a container that does not run those that it was created with."""
    published = network.get("Ports") or host.get("PortBindings") or {}
    return [
        {
            "host_ip": binding.get("HostIp", ""),
            "host_port": int(binding["HostPort"]),
            "port": int(inside.partition("/")[0]),
        }
        for inside, bindings in sorted(published.items())
        for binding in bindings or ()
        if str(binding.get("HostPort", "")).isdecimal()
    ]


def _sentence(name: str, value: dict[str, Any]) -> str:
    role = "" if value["role"] == "other" else f", {value['role']}"
    parts = [f"container {name} ({value['image']}{role}): {_state(value)}"]
    asked = value["gpu_request"]
    parts.append(f"GPUs asked for: {', '.join(asked)}" if asked else "no GPU asked for")
    for row in value["ports"]:
        parts.append(f"{row['host_ip'] or '*'}:{row['host_port']}->{row['port']}/tcp")
    if value["network_mode"] == "host":
        parts.append("network of the host")
    return ", ".join(parts)


def _state(value: dict[str, Any]) -> str:
    parts = [value["state"] or "in no known state"]
    if value["health"]:
        parts.append(value["health"])
    if value["state"] in ("exited", "restarting", "dead") or value["exit_code"]:
        parts.append(f"exit code {value['exit_code']}")
    if value["oom_killed"]:
        parts.append("ended by the kernel for memory (OOMKilled)")
    if value["restarts"]:
        parts.append(f"restarted {value['restarts']} times by Docker")
    if value["error"]:
        parts.append(f"«{value['error']}»")
    return ", ".join(parts)


def _facts(readings: tuple[Reading, ...]) -> Iterator[Fact]:
    for row in readings:
        value = row.value
        if value["role"] == "other" or value["state"] != "running" or value["restarts"]:
            continue
        asked = f" with GPUs: {', '.join(value['gpu_request'])}" if value["gpu_request"] else ""
        yield Fact(text=f"Container {row.about} ({value['image']}) runs{asked}.")
