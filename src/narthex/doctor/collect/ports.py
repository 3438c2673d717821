"""Who listens on this machine: services of the stack, and whoever else has one of their ports."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.docker_view import WAIT_S, docker_view
from narthex.doctor.collect.programs import folder_of, is_comfyui, is_openwebui
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.engines.ollama import processes
from narthex.engines.ollama.address import DEFAULT_PORT, parse_host
from narthex.host.listeners import Socket, every_listener
from narthex.host.processes import PROC, command_line, name_of, open_files, parent_of, pids

NAME = "ports"
TIME_S = WAIT_S

USUAL = {DEFAULT_PORT: "ollama", 8188: "comfyui"}  # ports that name their service
SHARED = (3000, 8080)  # of OpenWebUI and llama-server, and of many others
TITLES = {"ollama": "Ollama", "openwebui": "OpenWebUI", "comfyui": "ComfyUI", "llama_server": "llama-server"}
_FORWARDERS = ("docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta")


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a port. ``pid`` None: another user's process, which only root can see."""

    pid: int | None = None
    process: str = ""
    service: str = ""
    told_by: str = ""


def collect(scope: Scope) -> Collected:
    """Sockets of this network namespace; a container's own are inside it."""
    if not scope.is_this_machine:
        return Collected()
    sockets = list(every_listener())
    if not sockets and not (PROC / "net" / "tcp").exists():
        return Collected(readings=(gap("listener", "/proc/net/tcp is not there"),))
    holders = _holders()
    published = _published(scope)
    by_port: dict[int, list[Socket]] = {}
    for row in sockets:
        by_port.setdefault(row.port, []).append(row)
    readings = []
    for port, rows in sorted(by_port.items()):
        holder = _holder(port, rows, holders, published)
        if holder.service or port in (*USUAL, *SHARED, *published) or port == _own_port():
            readings.append(_reading(port, rows, holder))
    return Collected(readings=tuple(readings), facts=tuple(_facts(readings)))


def service_of(pid: int) -> str:
    """Which service of the stack a process is; "" for another."""
    if processes.is_ollama(pid):
        return "ollama"
    words = command_line(pid)
    names = [Path(word).name.lower() for word in words[:4]]
    if "llama-server" in names or name_of(pid) == "llama-server":
        return "" if processes.is_ollama(parent_of(pid)) else "llama_server"  # Ollama's runners are its own
    folder = folder_of(pid)
    if is_openwebui(words, folder):
        return "openwebui"
    return "comfyui" if is_comfyui(words, folder) else ""


def _holders() -> dict[str, int]:
    """Socket → process, of the processes that this user may look at."""
    return {link: pid for pid in pids() for link in open_files(pid) if link.startswith("socket:")}


def _published(scope: Scope) -> dict[int, str]:
    """Port of this machine → role of the container behind it."""
    found: dict[int, str] = {}
    view = docker_view(scope)
    for container in () if view.is_elsewhere else view.containers:
        ports = (container.facts.get("NetworkSettings") or {}).get("Ports") or {}
        for binding in (binding for bindings in ports.values() for binding in bindings or ()):
            if str(binding.get("HostPort", "")).isdecimal() and container.is_running:
                found[int(binding["HostPort"])] = container.role
    return found


def _holder(port: int, rows: list[Socket], holders: dict[str, int], published: dict[int, str]) -> Holder:
    pid = next((holders[row.link] for row in rows if row.link in holders), None)
    name = name_of(pid) if pid is not None else ""
    role = published.get(port, "")
    if role and (pid is None or name in _FORWARDERS):
        return Holder(pid=pid, process=name, service=role if role in TITLES else "", told_by="container")
    if pid is not None:
        return Holder(pid=pid, process=name, service=service_of(pid), told_by="process")
    return Holder(service=USUAL.get(port, ""), told_by="port" if port in USUAL else "")


def _reading(port: int, rows: list[Socket], holder: Holder) -> Reading:
    addresses = sorted({row.address for row in rows})
    value = {
        "addresses": addresses,
        "public": any(is_public(address) for address in addresses),
        "process": holder.process,
        "pid": holder.pid,
        "service": holder.service,
        "told_by": holder.told_by,
    }
    shown = ", ".join(f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in addresses)
    return Reading(name="listener", value=value, text=f"{shown} is held by {_who(holder)}", about=str(port))


def _who(holder: Holder) -> str:
    title = TITLES.get(holder.service, "")
    if holder.pid is not None:
        process = f"{holder.process} (PID {holder.pid})"
        return f"{title}: {process}" if title else process
    unseen = "a process of another user, which root could name"
    return (
        f"{unseen}; by its port {title}" if holder.told_by == "port" else f"{title or unseen} in a container"
    )


def is_public(address: str) -> bool:
    """Whether others than this machine can come in there."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return not found.is_loopback


def _own_port() -> int:
    """The port that OLLAMA_HOST names in this shell."""
    return parse_host(os.environ.get("OLLAMA_HOST", "")).port


def _facts(readings: list[Reading]) -> Iterator[Fact]:
    for row in readings:
        title = TITLES.get(row.value["service"])
        if title and not row.value["public"] and row.value["told_by"] != "port":
            yield Fact(text=f"{title} listens for this machine only, on port {row.about}.")
