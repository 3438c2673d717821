"""Where OpenWebUI and ComfyUI may answer: containers, processes, usual ports, what narthex.toml says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from narthex.doctor.collect.docker_view import SeenContainer, docker_view
from narthex.doctor.collect.programs import folder_of
from narthex.doctor.collect.scope import Scope
from narthex.engines.ollama.processes import container_id
from narthex.host.listeners import listening
from narthex.host.processes import command_line, open_files, pids

_ANY = ("0.0.0.0", "::", "")  # noqa: S104 (as a listener on all addresses is written)
_HOST = "127.0.0.1"


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """An address, and why it is one. ``sure``: whoever is there is this service; else it is a usual port."""

    url: str
    source: str  # «container open-webui», «process 123», «port 8080», «narthex.toml»
    sure: bool
    pid: int | None = None
    container: SeenContainer | None = None


def spots(
    scope: Scope,
    role: str,
    *,
    ports: Sequence[int],
    inside: int,
    is_one: Callable[[Sequence[str], str], bool],
    named: Sequence[str] = (),
) -> list[Spot]:
    """Each address once. ``ports`` are usual ones, ``inside`` the one in its container, ``named`` what a
    person wrote down."""
    found: dict[str, Spot] = {}
    for spot in (
        *(Spot(url=url.rstrip("/"), source="narthex.toml", sure=True) for url in named),
        *_containers(scope, role, inside),
        *_processes(is_one, ports),
        *(
            Spot(url=f"http://{_HOST}:{port}", source=f"port {port}", sure=False)
            for port in ports
            if listening(port)
        ),
    ):
        found.setdefault(spot.url, spot)
    return list(found.values())


def processes_of(is_one: Callable[[Sequence[str], str], bool]) -> list[int]:
    """Processes of this machine with such a command line, outside containers; of a family the eldest."""
    found = [pid for pid in pids() if is_one(command_line(pid), folder_of(pid)) and container_id(pid) is None]
    return sorted(found)


def _containers(scope: Scope, role: str, inside: int) -> Iterator[Spot]:
    view = docker_view(scope)
    for container in () if view.is_elsewhere else view.of_role(role):
        if not container.is_running:
            continue
        source = f"container {container.name}"
        for url in _ways(container, inside):
            yield Spot(url=url, source=source, sure=True, container=container)


def _ways(container: SeenContainer, inside: int) -> list[str]:
    """The first way to its port from this machine."""
    host = container.facts.get("HostConfig") or {}
    network = container.facts.get("NetworkSettings") or {}
    port = container.all_env.get("PORT", "")
    own = int(port) if port.isdecimal() else inside
    if host.get("NetworkMode") == "host":
        return [f"http://{_HOST}:{own}"]
    bound = [
        binding
        for name, bindings in (network.get("Ports") or {}).items()
        if name.endswith("/tcp")
        for binding in bindings or ()
        if ":" not in binding.get("HostIp", "")
    ]
    if bound:
        address = bound[0].get("HostIp", "")
        return [f"http://{_HOST if address in _ANY else address}:{bound[0]['HostPort']}"]
    networks = (network.get("Networks") or {}).values()
    ips = [each["IPAddress"] for each in networks if each.get("IPAddress")]
    return [f"http://{ip}:{own}" for ip in ips[:1]]


def _processes(is_one: Callable[[Sequence[str], str], bool], ports: Sequence[int]) -> Iterator[Spot]:
    mine = processes_of(is_one)
    sockets = listening() if mine else []
    for pid in mine:
        held = open_files(pid)
        open_ports = sorted({row.port for row in sockets if row.link in held})
        told = _port_in(command_line(pid))
        for port in open_ports[:1] or ([told] if told else [] if held else list(ports[-1:])):
            yield Spot(url=f"http://{_HOST}:{port}", source=f"process {pid}", sure=True, pid=pid)


def _port_in(words: Sequence[str]) -> int | None:
    """What ``--port`` says."""
    found = re.search(r"--port[ =](\d{1,5})", " ".join(words))
    return int(found[1]) if found else None


def log_beside(pid: int, words: Sequence[str]) -> list[Path]:
    """ComfyUI's own log files: in the user folder below where it was started, or where its flags say."""
    given = " ".join(words)
    base = re.search(r"--base-directory[ =](\S+)", given)
    user = re.search(r"--user-directory[ =](\S+)", given)
    home = Path(folder_of(pid))
    script = next((Path(word) for word in words if word.endswith("main.py")), Path("main.py"))
    folder = home / (user[1] if user else f"{base[1]}/user" if base else (home / script).parent / "user")
    with contextlib.suppress(OSError):
        return sorted(
            (path for path in folder.glob("comfyui*.log") if ".prev" not in path.name),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
    return []
