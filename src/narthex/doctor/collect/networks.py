"""What can't work between containers: told from how they are connected, without asking anybody."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from narthex.doctor.collect.docker_view import SeenContainer
from narthex.host.listeners import listening

_HOST_NAME = "host.docker.internal"
_COMPOSE_SERVICE = "com.docker.compose.service"


def reason(
    url: str, container: SeenContainer, others: Sequence[SeenContainer], *, desktop: bool = False
) -> str | None:
    """Why a URL can't lead to an Ollama from inside a container; None where nothing speaks against it.
    ``desktop``: it is Docker Desktop's engine, which knows the host by name everywhere."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        return str(error)
    if (container.facts.get("HostConfig") or {}).get("NetworkMode") == "host":
        return _on_this_machine(port, any_address=False) if _is_loopback(host) else None
    if _is_loopback(host):
        bundled = container.all_env.get("USE_OLLAMA_DOCKER", "").lower() == "true"
        own = f"inside a container «{host}» is the container itself, where no Ollama runs"
        return None if bundled else own
    if host == _HOST_NAME:
        return None if desktop else _by_host_gateway(container, port)
    return None if _is_address(host) else _by_name(host, container, others)


def _by_host_gateway(container: SeenContainer, port: int) -> str | None:
    hosts = (container.facts.get("HostConfig") or {}).get("ExtraHosts") or ()
    if not any(str(row).startswith(_HOST_NAME) for row in hosts):
        return (
            f"{_HOST_NAME} is not known inside: the container was made without "
            f"--add-host={_HOST_NAME}:host-gateway"
        )
    return _on_this_machine(port, any_address=True)


def _on_this_machine(port: int, *, any_address: bool) -> str | None:
    """Whether somebody listens there. ``any_address``: a container comes from outside the loopback."""
    rows = listening(port)
    if not rows:
        return f"nothing listens on port {port} of this machine"
    if any_address and all(_is_loopback(row.address) for row in rows):
        return f"port {port} of this machine listens on the loopback only, which no container reaches"
    return None


def _by_name(host: str, container: SeenContainer, others: Sequence[SeenContainer]) -> str | None:
    named = [each for each in others if host in _names(each)]
    if not named:
        known = "." in host  # a name of the local network's own DNS can't be judged from here
        return None if known else f"no container and no service is called «{host}»"
    mine = set(_networks(container))
    shared = [each for each in named if mine & set(_networks(each))]
    if not shared:
        theirs = ", ".join(sorted(_networks(named[0]))) or "none"
        return (
            f"«{host}» is on other networks ({theirs}) than OpenWebUI ({', '.join(sorted(mine)) or 'none'})"
        )
    if not any(each.is_running for each in shared):
        return f"container {shared[0].name} does not run"
    if mine & set(_networks(shared[0])) == {"bridge"}:
        return f"on Docker's default bridge network names such as «{host}» are not known"
    return None


def _names(container: SeenContainer) -> set[str]:
    """What it is called on its networks."""
    found = {container.name, container.id[:12]}
    labels: dict[str, Any] = (container.facts.get("Config") or {}).get("Labels") or {}
    if service := labels.get(_COMPOSE_SERVICE):
        found.add(str(service))
    for network in _networks(container).values():
        found.update(str(alias) for alias in (network or {}).get("Aliases") or ())
    return found


def _networks(container: SeenContainer) -> dict[str, Any]:
    return dict((container.facts.get("NetworkSettings") or {}).get("Networks") or {})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
