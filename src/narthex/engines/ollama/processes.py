"""Ollama's processes as /proc of this machine shows them: who listens, who computes, started how."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from narthex.engines.ollama.address import parse_host
from narthex.host.listeners import listener_pid, listening
from narthex.host.processes import (
    PROC,
    command_line,
    environment,
    family,
    name_of,
    parent_of,
    pids,
    read_text,
    start_ticks,
    user_id,
)

PACKAGED_STORE = "/usr/share/ollama/.ollama/models"  # of the Linux package's user «ollama»
_RUNNERS = ("llama-server", "ollama_llama_server")
_CONTAINER_ID = re.compile(r"(?:docker|libpod|crio|containerd|containers|kubepods)\S*?([0-9a-f]{64})")


class Unit(msgspec.Struct, frozen=True):
    """A systemd unit; ``uid`` is set where it belongs to that user's own systemd."""

    name: str
    uid: int | None = None


def server_pid(port: int, address: str | None = None) -> int | None:
    """The Ollama server that listens on that port of this machine; None where another program does (ssh,
    docker-proxy) or it can't be told.

    Another user's sockets can't be seen without root: then it is the one ``ollama serve`` of the user who
    owns the socket. ``address``: the local address that is asked; without it any.
    """
    pid = listener_pid(port, address)
    if pid is not None:
        return pid if is_ollama(pid) else None
    owners = {socket.uid for socket in listening(port, address)}
    found = [pid for pid in server_pids() if user_id(pid) in owners and _may_serve(pid, port)]
    return found[0] if len(found) == 1 else None


def server_pids() -> list[int]:
    """Every ``ollama serve`` of this machine, also inside containers."""
    return [pid for pid in pids() if is_ollama(pid) and not {"serve", "start"}.isdisjoint(command_line(pid))]


def is_ollama(pid: int) -> bool:
    """Whether the process is Ollama itself, by its name or command line, and not one of its runners."""
    words = command_line(pid)
    named = name_of(pid) == "ollama" or (bool(words) and Path(words[0]).name == "ollama")
    return named and "runner" not in words[1:2]


def runner_pid(blob: str, server: int | None = None) -> int | None:
    """The newest process that computes with that blob: a ``llama-server`` or ``ollama runner`` whose command
    line names it. ``blob``: 64 hex digits, with or without ``sha256-``. ``server``: only its descendants."""
    digits = blob.removeprefix("sha256-").removeprefix("sha256:")
    if not digits:
        return None
    among = family(server) if server is not None else frozenset(pids())
    found = [pid for pid in among if _is_runner(command_line(pid), digits)]
    return max(found, key=start_ticks, default=None)


def runner_pids(server: int) -> list[int]:
    """The processes that compute for that server: its ``llama-server`` or ``ollama runner`` children."""
    return sorted(pid for pid in family(server) if _is_runner(command_line(pid), "--model"))


def unit_of(pid: int) -> Unit | None:
    """The systemd service that keeps the process. None for one that only was started below a service, as from
    a terminal in an editor's: restarting that service would end the editor."""
    unit = unit_in(read_text(PROC / str(pid) / "cgroup"))
    if unit is None or "ollama" in unit.name:
        return unit
    parent = parent_of(pid)
    return unit if parent == 1 or name_of(parent) == "systemd" else None


def unit_in(cgroup: str) -> Unit | None:
    """The service that a process's control group names; ``cgroup`` is the text of /proc/PID/cgroup."""
    for row in cgroup.splitlines():
        parts = row.partition(":")[2].partition(":")[2].strip("/").split("/")
        if parts[-1].endswith(".service") and not parts[-1].startswith("user@"):
            user = next((part for part in parts if part.startswith("user@")), "")
            uid = user.removeprefix("user@").removesuffix(".service")
            return Unit(parts[-1], int(uid) if uid.isdecimal() else None)
    return None


def container_id(pid: int) -> str | None:
    """64 hex digits of the container that the process lives in; None for one in narthex' own container, whose
    files and addresses are the same as ours."""
    return other_container(*(read_text(PROC / name / "cgroup") for name in (str(pid), "self")))


def other_container(cgroup: str, own: str) -> str | None:
    """The container of a process, unless it is our own. Texts of /proc/PID/cgroup."""
    found = container_in(cgroup)
    return None if found == container_in(own) else found


def container_in(cgroup: str) -> str | None:
    """The container that a process's control group names."""
    found = _CONTAINER_ID.search(cgroup)
    return found.group(1) if found else None


def log_file(pid: int) -> str | None:
    """The regular file that the process writes its errors to, else its output."""
    for number in (2, 1):
        link = PROC / str(pid) / "fd" / str(number)
        with contextlib.suppress(OSError):
            if link.is_file():
                return os.readlink(link).removesuffix(" (deleted)")
    return None


def store_of(pid: int) -> str | None:
    """The models folder of that server, as a path that can be read from here.

    ``OLLAMA_MODELS`` of its environment, else below its user's home, else the Linux package's. A server in
    another mount namespace is looked at through ``/proc/PID/root``.
    """
    env = environment(pid)
    named = env.get("OLLAMA_MODELS", "").strip(" \t'\"")
    homes = [home for home in (env.get("HOME"), _home(pid)) if home]
    paths = [named] if named else [*(f"{home}/.ollama/models" for home in homes), PACKAGED_STORE]
    root = PROC / str(pid) / "root"
    inside = [str(root) + path for path in paths] if _other_mounts(pid) else paths
    return next((path for path in inside if readable_store(path)), None)


def readable_store(path: str) -> bool:
    """Whether manifests and blobs of that models folder can be read from here."""
    return all(os.access(f"{path}/{folder}", os.R_OK | os.X_OK) for folder in ("manifests", "blobs"))


def _is_runner(words: Sequence[str], digits: str) -> bool:
    if not words or not any(digits in word for word in words):
        return False
    program = Path(words[0]).name
    return program in _RUNNERS or (program == "ollama" and "runner" in words[1:2])


def _may_serve(pid: int, port: int) -> bool:
    """Whether that server's environment, where it can be read, goes with the port."""
    env = environment(pid)
    return not env or parse_host(env.get("OLLAMA_HOST", "")).port == port


def _other_mounts(pid: int) -> bool:
    """Whether the process sees other files than we do. False where that can't be read."""
    try:
        return os.readlink(PROC / str(pid) / "ns" / "mnt") != os.readlink(PROC / "self" / "ns" / "mnt")
    except OSError:
        return container_id(pid) is not None


def _home(pid: int) -> str | None:
    uid = user_id(pid)
    try:
        return pwd.getpwuid(uid).pw_dir if uid is not None else None
    except KeyError:
        return None
