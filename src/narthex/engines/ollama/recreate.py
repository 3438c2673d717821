"""A container's own description turned into that of its twin with another environment. Pure.

Docker can't change the variables of a container: a new one is made from what ``inspect`` tells of the old.
Most of that can be given back as it is; what can't is here, each with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narthex.engines.ollama.docker import ASIDE_LABEL, variables

_NO_ALIASES = ("bridge", "default", "host", "none")  # Docker's own networks take no names


def twin(facts: Mapping[str, Any], image: str, changes: Mapping[str, str | None]) -> dict[str, Any]:
    """The body of a create request for the same container with a changed environment.

    ``facts``: what inspect told of the user's container; ``image``: its image as it is to be named now.
    A change to None takes the variable away, so that the image's or Ollama's default holds.
    """
    config = dict(facts["Config"])
    host = dict(facts["HostConfig"])
    config["Image"] = image
    config["Env"] = changed(config.get("Env"), changes)
    config["Labels"] = {**(config.get("Labels") or {}), ASIDE_LABEL: facts["Id"]}
    if config.get("Hostname") == facts["Id"][:12]:  # given by Docker, not by the user
        config.pop("Hostname")
    host["Binds"] = [*(host.get("Binds") or ()), *_nameless_volumes(facts)]
    if _shares_network(host):
        for name in ("Hostname", "Domainname", "ExposedPorts"):  # refused in another container's network
            config.pop(name, None)
        host["PortBindings"] = {}
    else:
        host["PortBindings"] = _ports(facts)
    config["HostConfig"] = host
    main = first_network(facts)
    config["NetworkingConfig"] = {"EndpointsConfig": {main: endpoint(facts, main)} if main else {}}
    return config


def changed(rows: Sequence[str] | None, changes: Mapping[str, str | None]) -> list[str]:
    """Docker's list of ``NAME=value`` with the changes made."""
    env: dict[str, str | None] = {**variables(list(rows or ())), **changes}
    return [f"{name}={value}" for name, value in env.items() if value is not None]


def first_network(facts: Mapping[str, Any]) -> str | None:
    """The network that the container is created in."""
    mode = str(facts["HostConfig"].get("NetworkMode", ""))
    networks = (facts.get("NetworkSettings") or {}).get("Networks") or {}
    if _shares_network(facts["HostConfig"]):
        return None
    named = "bridge" if mode == "default" else mode
    return named if named in networks else next(iter(networks), None)


def other_networks(facts: Mapping[str, Any]) -> list[str]:
    """Those that it is connected to besides, before it starts."""
    networks = (facts.get("NetworkSettings") or {}).get("Networks") or {}
    return [name for name in networks if name != first_network(facts)] if first_network(facts) else []


def endpoint(facts: Mapping[str, Any], network: str) -> dict[str, Any]:
    """How the container is connected to one network: the names and addresses that a user chose."""
    if network in _NO_ALIASES:
        return {}
    told = facts["NetworkSettings"]["Networks"][network]
    aliases = [alias for alias in told.get("Aliases") or () if alias != facts["Id"][:12]]
    kept = {name: told[name] for name in ("IPAMConfig", "Links", "DriverOpts") if told.get(name)}
    return {**kept, "Aliases": aliases} if aliases else kept


def _shares_network(host: Mapping[str, Any]) -> bool:
    return str(host.get("NetworkMode", "")).startswith("container:")


def _nameless_volumes(facts: Mapping[str, Any]) -> list[str]:
    """Volumes that the image asked for and Docker named: a twin without them would begin with empty ones."""
    host = facts["HostConfig"]
    named = {bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind}
    named |= {mount.get("Target") for mount in host.get("Mounts") or ()}
    return [
        f"{mount['Name']}:{mount['Destination']}{'' if mount.get('RW', True) else ':ro'}"
        for mount in facts.get("Mounts") or ()
        if mount.get("Type") == "volume" and mount.get("Name") and mount["Destination"] not in named
    ]


def _ports(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The published ports: as asked for, and one that Docker chose as it is now."""
    asked = facts["HostConfig"].get("PortBindings") or {}
    now = (facts.get("NetworkSettings") or {}).get("Ports") or {}
    chosen = {port: bindings for port, bindings in now.items() if bindings and not _is_fixed(asked.get(port))}
    return {**asked, **chosen}


def _is_fixed(bindings: Any) -> bool:
    numbers = [str(binding.get("HostPort", "")) for binding in bindings or ()]
    return bool(numbers) and all(number.isdecimal() and int(number) > 0 for number in numbers)
