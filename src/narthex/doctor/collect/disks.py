"""Room on the disks that the stack writes to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from narthex import paths
from narthex.doctor.collect import ollama_servers
from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.docker_view import WAIT_S, docker_view
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.engines.ollama import processes
from narthex.units import GIB, format_size

NAME = "disks"
TIME_S = WAIT_S

MODELS = "Ollama's models"
_INODES_LOW = 1000
_USUAL_STORES = (processes.PACKAGED_STORE, "/var/snap/ollama/common/models", "/var/lib/ollama/models")


def collect(scope: Scope) -> Collected:
    """Each folder's file system; of a folder that is not there yet the nearest one above it."""
    found: dict[str, str] = {}
    for path, what in _places(scope):
        found[path] = f"{found[path]}, {what}" if path in found else what
    readings = tuple(_disk(scope, path, what) for path, what in found.items())
    return Collected(readings=readings, facts=tuple(_facts(readings)))


def _places(scope: Scope) -> Iterator[tuple[str, str]]:
    home = str(Path.home() / ".ollama" / "models")
    named = os.environ.get("OLLAMA_MODELS", "").strip()
    of_servers = [processes.store_of(pid) or "" for pid in _servers(scope)]
    stores = [named, *of_servers, *_told_stores(scope), *_USUAL_STORES, home]
    for store in dict.fromkeys(filter(None, stores)):
        if store == named or _is_folder(scope.path(store)):
            yield store, MODELS
    view = docker_view(scope)
    for container in () if view.is_elsewhere else view.containers:
        for source in container.model_folders:
            yield source, f"{MODELS} in container {container.name}"
    if view.root:
        yield view.root, "Docker's root"
    yield str(paths.state_dir()), "narthex' state"
    yield tempfile.gettempdir(), "temporary files"


def _servers(scope: Scope) -> list[int]:
    return processes.server_pids() if scope.is_this_machine else []


def _told_stores(scope: Scope) -> list[str]:
    """What servers outside containers say in their logs: another user's environment can't be read."""
    if not scope.is_this_machine:
        return []
    found = ollama_servers.find(scope).servers
    return [server.env.get("OLLAMA_MODELS", "") for server in found if server.place == "process"]


def _disk(scope: Scope, path: str, what: str) -> Reading:
    real = scope.path(path)
    try:
        there = _nearest(real)
        found = os.statvfs(there)
    except OSError as error:
        return gap("disk", f"{path} ({what}) can't be looked at: {error.strerror}; root may", path)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    read_only = bool(found.f_flag & os.ST_RDONLY)
    value = {
        "total_bytes": total,
        "free_bytes": free,
        "inodes_total": found.f_files,
        "inodes_free": found.f_favail,
        "read_only": read_only,
        "what": what,
    }
    inodes = f", {found.f_favail} of {found.f_files} inodes free" if found.f_files else ""
    mounted = ", mounted read-only" if read_only else ""
    text = f"{path} ({what}): {format_size(free)} of {format_size(total)} free{inodes}{mounted}"
    return Reading(name="disk", value=value, text=text, about=path)


def _nearest(path: Path) -> Path:
    """The folder, or the nearest one above it that is there. Raises OSError where this user may not look."""
    for candidate in (path, *path.parents):
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return candidate
    return path


def _facts(readings: tuple[Reading, ...]) -> Iterator[Fact]:
    for row in readings:
        value = row.value
        if value is None or value["read_only"] or not value["what"].startswith(MODELS):
            continue
        if value["free_bytes"] >= GIB and (not value["inodes_total"] or value["inodes_free"] > _INODES_LOW):
            yield Fact(text=f"Room for models: {format_size(value['free_bytes'])} free in {row.about}.")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return True  # there, and not to be looked at
