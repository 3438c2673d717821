"""Where a server runs: a process here, a container here, or elsewhere. And what can be read of it there."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from narthex import settings
from narthex.engines.ollama import docker, logs, notes, processes
from narthex.engines.ollama.address import Address, parse_host
from narthex.engines.ollama.drop_in import drop_in
from narthex.flock import Holder
from narthex.host.limits import memory_ceiling
from narthex.host.listeners import listener_pid
from narthex.host.processes import name_of

_FORWARDERS = ("docker-proxy", "rootlessport", "rootlesskit")  # a container's port listens as one of these
_NO_GPU_HERE = "GPU memory of its machine can't be read from here"
_OWN_LOG = ".ollama/logs/server.log"  # where Ollama's own desktop program writes it
_LOG_LOST = (
    "Its log goes nowhere that can be read: start it with its output to a file, "
    "and name that with NARTHEX_OLLAMA_LOG=file:PATH."
)


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server runs, as far as this machine can see."""

    place: str
    pid: int | None = None
    found: docker.Found | None = None
    gaps: tuple[str, ...] = ()


def find_site(address: Address) -> Site:
    """Which process or container answers at that address."""
    local = address.here()
    pid = processes.server_pid(address.port, local) if local else None
    inside = processes.container_id(pid) if pid is not None else None
    if pid is not None and inside is None:
        return Site(place="process", pid=pid, gaps=_drop_in_gaps(pid, address))
    try:
        found = _container_at(address, local is not None, inside)
    except docker.NoDocker as error:
        return _site_without_docker(address, local, pid, str(error))
    if found is None:
        return _site_without_docker(address, local, pid, "")
    pid = found.pid or pid
    if pid is None:
        gap = f"Container «{found.container.name}» does not run on this machine: {_NO_GPU_HERE}."
        return Site(place="elsewhere", found=found, gaps=(gap,))
    return Site(place="container", pid=pid, found=found, gaps=_twin_gaps(found, address))


def _twin_gaps(found: docker.Found, address: Address) -> tuple[str, ...]:
    """Said of a container that narthex put there and did not take away again."""
    if not found.changed:
        return ()
    name = found.container.name
    if (holder := notes.holder(address, name)) is not None:
        return _at_work(holder)
    own = f"{name}{docker.ASIDE}"
    return (
        f"It has settings that narthex gave it. Your own container waits as «{own}»; to have it back: "
        f"docker rm -f {name} && docker rename {own} {name} && docker start {name}",
    )


def _drop_in_gaps(pid: int, address: Address) -> tuple[str, ...]:
    """Said of a unit with a drop-in that narthex did not take away again."""
    unit = processes.unit_of(pid)
    if unit is None or not drop_in(unit).exists():
        return ()
    if (holder := notes.holder(address, None)) is not None:
        return _at_work(holder)
    systemctl = "systemctl --user" if unit.uid is not None else "systemctl"
    return (
        f"It has settings that narthex gave it. To have your own back: rm {drop_in(unit)} && "
        f"{systemctl} daemon-reload && {systemctl} restart {unit.name}",
    )


def _at_work(holder: Holder) -> tuple[str, ...]:
    """Instead of a way out, which would take the server from under a study. Nothing is said of our own."""
    if holder.pid == os.getpid():
        return ()
    return (
        f"Another narthex, process {holder.pid}, tries other settings on it right now; "
        "your own come back when it is done.",
    )


def unit_of(site: Site) -> str | None:
    """The systemd unit that keeps it."""
    unit = processes.unit_of(site.pid) if site.pid is not None and site.place == "process" else None
    return unit.name if unit else None


def log_of(site: Site) -> tuple[str, str]:
    """(where its log can be read, "") or ("", why it can't)."""
    if chosen := settings.get("ollama_log"):
        return str(chosen), ""
    if site.found is not None:
        return _container_log(site.found.container.name)
    if site.place != "process" or site.pid is None:
        return "", "Its log can't be read from here: a load is judged by the API's answer alone."
    path = processes.log_file(site.pid)
    if path is not None and os.access(path, os.R_OK):
        return f"file:{path}", ""
    if unit := processes.unit_of(site.pid):
        return _journal(unit)
    own = Path.home() / _OWN_LOG
    return (f"file:{own}", "") if os.access(own, os.R_OK) else ("", _LOG_LOST)


def _container_log(name: str) -> tuple[str, str]:
    source = logs.DockerLog(name)
    source.mark()
    return ("", f"Its log: {source.problem}.") if source.problem else (f"docker:{name}", "")


def _journal(unit: processes.Unit) -> tuple[str, str]:
    own = unit.uid is not None
    if logs.readable_journal(unit.name, user=own):
        return f"{'user-journal' if own else 'journal'}:{unit.name}", ""
    way = "sudo usermod -aG systemd-journal $USER, and log in again."
    return "", f"The journal shows nothing of {unit.name} to this user: {way}"


def memory_of(site: Site) -> int | None:
    """Main memory that its container or unit may use; None where nothing limits it, or that can't be told."""
    limits = [
        site.found.memory_bytes if site.found is not None else None,
        memory_ceiling(site.pid) if site.pid is not None else None,
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def store_of(site: Site) -> str | None:
    """Its models folder, where that can be read from here."""
    if site.found is not None:
        return site.found.store
    return processes.store_of(site.pid) if site.pid is not None else None


def _container_at(address: Address, local: bool, inside: str | None) -> docker.Found | None:
    """The running container that answers there: by its process's control group, else by its URL."""
    running = [found for found in docker.find_containers() if found.running and found.url]
    if inside is not None:
        return next((found for found in running if found.container.id == inside), None)
    for found in running:
        other = parse_host(found.url or "")
        same_host = other.host == address.host or (local and found.published and other.here() is not None)
        if same_host and other.port == address.port:
            return found
    return None


def _site_without_docker(address: Address, local: str | None, pid: int | None, why: str) -> Site:
    """A server whose container can't be asked, or that has none that is known here."""
    listener = listener_pid(address.port, local) if local else None
    name = name_of(listener) if listener is not None else ""
    if pid is None and name in _FORWARDERS:
        inside = [found for found in processes.server_pids() if processes.container_id(found)]
        pid = inside[0] if len(inside) == 1 else None
    if pid is not None:
        reason = why or "Docker does not know it"
        return Site(
            place="container",
            pid=pid,
            gaps=(f"It runs in a container that can't be asked about its log: {reason}.",),
        )
    if local is None:
        gap = f"It is on another machine, {address.host}: {_NO_GPU_HERE}."
    elif name:
        gap = f"What listens there is «{name}», no Ollama: a tunnel or a proxy, so {_NO_GPU_HERE}."
    else:
        gap = f"Its process can't be seen from here, so {_NO_GPU_HERE}. As root, narthex may see it."
    return Site(place="elsewhere", gaps=(gap,))
