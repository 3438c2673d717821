"""The Engine API's shapes that are made from other ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narthex.testing.docker.container import Row, stamp


def listed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """An element of the list of containers, from what inspect tells."""
    config = facts["Config"]
    words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    published = (facts.get("NetworkSettings") or {}).get("Ports") or {}
    every = {**dict.fromkeys(config.get("ExposedPorts") or ()), **published}
    ports: list[dict[str, Any]] = []
    for port, bindings in every.items():
        private = {"PrivatePort": int(port.partition("/")[0]), "Type": "tcp"}
        ports += [
            {"IP": binding["HostIp"], "PublicPort": int(binding["HostPort"]), **private}
            for binding in bindings or ()
        ] or [private]
    return {
        "Id": facts["Id"],
        "Names": [facts["Name"]],
        "Image": config["Image"],
        "ImageID": facts["Image"],
        "Command": " ".join(words),
        "Ports": ports,
        "Labels": config.get("Labels") or {},
        "State": facts["State"]["Status"],
        "HostConfig": {"NetworkMode": facts["HostConfig"].get("NetworkMode", "default")},
        "Mounts": facts.get("Mounts") or [],
    }


def selected(rows: list[Row], query: Mapping[str, str]) -> list[Row]:
    """The lines that a request for logs asks for."""
    since, until = (int(float(query.get(name) or 0) * 1e9) for name in ("since", "until"))
    streams = {number for name, number in (("stdout", 1), ("stderr", 2)) if query.get(name) == "1"}
    found = [
        row
        for row in rows
        if row.stream in streams and row.at_ns >= since and (not until or row.at_ns <= until)
    ]
    tail = query.get("tail", "all")
    return found[len(found) - int(tail) :] if tail.isdecimal() and int(tail) < len(found) else found


def text_of(row: Row, with_time: bool) -> bytes:
    """A line as it is sent."""
    time = stamp(row.at_ns).encode() + b" " if with_time else b""
    return time + row.line + b"\n"


def mount_of(bind: str, volumes: Mapping[str, str]) -> dict[str, Any]:
    """What inspect tells of a bind: «source:destination[:options]»."""
    source, destination, *rest = bind.split(":")
    mount = {"Source": source, "Destination": destination, "RW": "ro" not in rest}
    if source.startswith("/"):
        return {"Type": "bind", **mount}
    folder = volumes.get(source, f"/var/lib/docker/volumes/{source}/_data")
    return {"Type": "volume", "Name": source, **mount, "Source": folder}
