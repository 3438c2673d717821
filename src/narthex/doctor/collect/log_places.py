"""Where the services of this machine write their logs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from narthex import paths, settings
from narthex.doctor.collect import comfyui, ollama_servers, openwebui
from narthex.doctor.collect.container_logs import KINDS
from narthex.doctor.collect.docker_view import docker_view
from narthex.doctor.collect.places import KERNEL, LogPlace, file_place, place_of
from narthex.doctor.collect.programs import is_comfyui, is_openwebui
from narthex.doctor.collect.scope import Scope
from narthex.doctor.collect.spots import Spot, log_beside, processes_of
from narthex.engines.ollama.processes import container_id, log_file, unit_of
from narthex.errors import NarthexError
from narthex.host.processes import command_line, parent_of, pids

_UNITS = {
    "ollama_log": ("ollama",),
    "openwebui_log": ("open-webui", "openwebui"),
    "comfyui_log": ("comfyui", "ComfyUI"),
    "llama_server_log": ("llama-server", "llama.cpp"),
}
_UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_COMFYUI_HOMES = ("~/ComfyUI", "~/comfyui", "/opt/ComfyUI", "/opt/comfyui")
_FRESH_S = 3600.0  # an older log of an engine that narthex started tells of trials that are long over
_DAY_S = 86_400.0


def log_places(scope: Scope) -> list[LogPlace]:
    """Every log of a service that can be named, each once; containers' and the kernel's too."""
    found: dict[str, LogPlace] = {}
    for place in (*service_logs(scope), *container_places(scope), place_of("dmesg", f"{KERNEL}:")):
        found.setdefault(place.where, place)
    return list(found.values())


def container_places(scope: Scope) -> Iterator[LogPlace]:
    """Of the stack's containers; they need not run."""
    for container in docker_view(scope).containers:
        if (kind := KINDS.get(container.role)) is not None:
            yield place_of(kind, f"docker:{container.name}")


def service_logs(scope: Scope) -> list[LogPlace]:
    """Of services outside containers."""
    found: dict[str, LogPlace] = {}
    for place in (*_ollama(scope), *_openwebui(scope), *_comfyui(scope), *_llama_servers(scope), *_units()):
        if place.means != "docker":
            found.setdefault(place.where, place)
    return list(found.values())


def _ollama(scope: Scope) -> Iterator[LogPlace]:
    with contextlib.suppress(NarthexError):
        if chosen := settings.get("ollama_log"):
            yield place_of("ollama_log", str(chosen))
    for server in ollama_servers.find(scope).servers:
        if server.log:
            yield place_of("ollama_log", server.log)
    own = Path.home() / ".ollama" / "logs" / "server.log"
    if _is_readable(own):
        yield file_place("ollama_log", own)


def _openwebui(scope: Scope) -> Iterator[LogPlace]:
    for pid in _pids_of(openwebui.find(scope)) or processes_of(is_openwebui):
        yield from _of_process("openwebui_log", pid)


def _comfyui(scope: Scope) -> Iterator[LogPlace]:
    seen = False
    for pid in _pids_of(comfyui.find(scope)) or processes_of(is_comfyui):
        seen = True
        own = log_beside(pid, command_line(pid))
        yield from (file_place("comfyui_log", path) for path in own[:1])
        if not own:
            yield from _of_process("comfyui_log", pid)
    for home in () if seen else _COMFYUI_HOMES:
        path = Path(home).expanduser() / "user" / "comfyui.log"
        if _is_readable(path) and time.time() - path.stat().st_mtime < _DAY_S:
            yield file_place("comfyui_log", path)


def _llama_servers(scope: Scope) -> Iterator[LogPlace]:
    """Those that run by themselves, and the newest of those that narthex started."""
    for pid in pids():
        words = command_line(pid)
        alone = bool(words) and Path(words[0]).name == "llama-server" and container_id(pid) is None
        if alone and Path((command_line(parent_of(pid)) or ["-"])[0]).name != "ollama":
            yield from _of_process("llama_server_log", pid)
    folder = paths.state_dir() / "engine"
    rows = sorted(((_changed(path), path) for path in folder.glob("llama-server-*.log")), reverse=True)
    since = scope.since if scope.since is not None else time.time() - _FRESH_S
    recent = [path for at, path in rows if at >= since]
    for path in recent[: 3 if scope.since is not None else 1]:
        yield file_place("llama_server_log", path)


def _of_process(kind: str, pid: int) -> Iterator[LogPlace]:
    """The file that its output goes to, else the journal of its unit."""
    path = log_file(pid)
    if path is not None and _is_readable(Path(path)):
        yield file_place(kind, path)
    elif (unit := unit_of(pid)) is not None:
        yield place_of(kind, f"{'user-journal' if unit.uid is not None else 'journal'}:{unit.name}")


def _units() -> Iterator[LogPlace]:
    """Units by the names that people give them, also of services that do not run."""
    own = Path.home() / ".config" / "systemd" / "user"
    for kind, names in _UNITS.items():
        for name in names:
            unit = f"{name}.service"
            if any((Path(folder) / unit).exists() for folder in _UNIT_FOLDERS):
                yield place_of(kind, f"journal:{unit}")
            if (own / unit).exists():
                yield place_of(kind, f"user-journal:{unit}")


def _pids_of(spots: list[Spot]) -> list[int]:
    return [spot.pid for spot in spots if spot.pid is not None]


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
