"""Containers that hold an Ollama, asked through the Docker SDK. ``DOCKER_HOST`` is honoured.

No daemon, no permission or no SDK is nothing wrong: :class:`NoDocker` says it in words, and discovery makes a
gap of it. A container is told by its image, its command or its port 11434, never by its name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from narthex.engines.ollama import processes
from narthex.engines.ollama.address import DEFAULT_PORT, Address, parse_host
from narthex.engines.ollama.names import parse_time
from narthex.engines.ollama.records import Container
from narthex.host.processes import family, started_s

ASIDE_LABEL = "narthex.in-place-of"
"""On a container that narthex made: the id of the user's own one, which waits stopped."""

ASIDE = "-before-narthex"
"""What the user's own container has behind its name meanwhile."""

TIMEOUT_S = 10
_USUAL = Path("/var/run/docker.sock")
_OTHER_SOCKETS = (  # rootless Docker, Docker Desktop
    "$XDG_RUNTIME_DIR/docker.sock",
    "~/.docker/run/docker.sock",
    "~/.docker/desktop/docker.sock",
)
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 (as Docker writes a port that is open on all addresses)
_SAME_START_S = 3.0  # between the kernel's and the daemon's time of a start
_LAST_RESORT_HOME = "/root"  # the official image runs as root


class NoDocker(Exception):
    """Docker can't be asked, or refused; the text says why."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A container that holds an Ollama, or may: then only its port says so (``sure`` is False)."""

    container: Container
    sure: bool
    status: str  # "running", "exited", "paused", …
    url: str | None  # of its API from this machine; None where no way leads there
    published: bool
    pid: int | None  # of its Ollama as this machine counts; None where it can't be seen from here
    env: dict[str, str]
    store: str | None  # its models folder on this machine, where it can be read
    store_inside: str
    store_mounted: bool  # on a volume or a folder of the host, so that the models outlive the container
    gpus: tuple[str, ...]  # asked for: "all", "×2", "0,1" as ids; empty where none
    memory_bytes: int | None  # its limit
    compose: str = ""  # "project/service"
    orchestrated: str = ""  # "Docker Swarm", "Kubernetes": what would start another in its place
    restarts: int = 0  # by Docker, since it was last started by hand
    changed: bool = False  # made by narthex in place of the user's, see hand.py

    @property
    def running(self) -> bool:
        """Whether it runs, a paused one not counted."""
        return self.status == "running"


@contextlib.contextmanager
def connect(timeout_s: int = TIMEOUT_S) -> Iterator[Any]:
    """The SDK's low-level client. Raises NoDocker, also for what goes wrong while the daemon is asked."""
    try:
        import docker as sdk
        from requests.exceptions import RequestException
    except ImportError as error:
        raise NoDocker("the Python package «docker» is not installed") from error
    client = None
    try:
        client = sdk.from_env(timeout=timeout_s, environment=_environment())
        yield client.api
    except (sdk.errors.DockerException, RequestException, OSError) as error:
        raise NoDocker(_why(error)) from error
    finally:
        if client is not None:
            client.close()


def find_containers() -> list[Found]:
    """Every container, stopped ones too, that holds an Ollama or may. Raises NoDocker."""
    with connect() as api:
        rows = api.containers(all=True)
        picked = [row for row in rows if _is_ollama(row) or _has_port(row)]
        found = []
        for row in picked:
            with contextlib.suppress(missing()):
                found.append(_found(api, api.inspect_container(row["Id"]), sure=_is_ollama(row)))
        return sorted(found, key=lambda item: (not item.running, not item.sure))


def look(container: str) -> Found:
    """One container by its name or id. Raises NoDocker."""
    with connect() as api:
        return _found(api, api.inspect_container(container), sure=True)


def started_at(container: str) -> str:
    """When the container was started last, in the daemon's words. Raises NoDocker."""
    with connect() as api:
        return str(api.inspect_container(container)["State"].get("StartedAt", ""))


def read_logs(container: str, **options: Any) -> bytes:
    """Its output and errors, with the SDK's options (``since`` and ``until`` in seconds). Raises NoDocker."""
    with connect() as api:
        return bytes(api.logs(container, stdout=True, stderr=True, **options))


def variables(rows: list[str] | None) -> dict[str, str]:
    """Docker's list of ``NAME=value``."""
    split = (row.partition("=") for row in rows or ())
    return {name: value for name, equals, value in split if equals}


def socket_path() -> Path | None:
    """The engine's Unix socket, whether it is there or not; None where ``DOCKER_HOST`` names none."""
    named = urlsplit(_environment().get("DOCKER_HOST", f"unix://{_USUAL}"))
    return Path(named.path) if named.scheme in ("unix", "") else None


def remote_host() -> str | None:
    """The machine that ``DOCKER_HOST`` names; None for this one."""
    parts = urlsplit(os.environ.get("DOCKER_HOST", ""))
    return parts.hostname if parts.scheme in ("tcp", "http", "https", "ssh") else None


def _found(api: Any, facts: Mapping[str, Any], *, sure: bool) -> Found:
    config, state = facts["Config"], facts["State"]
    env = variables(config.get("Env"))
    labels = config.get("Labels") or {}
    pid = _pid_here(facts) if state.get("Running") else None
    url, published = _way_in(api, facts, parse_host(env.get("OLLAMA_HOST", "")).port)
    inside = _store_inside(env)
    on_host = _on_host(facts.get("Mounts") or (), inside)
    return Found(
        container=Container(id=facts["Id"], name=facts["Name"].lstrip("/"), image=config.get("Image", "")),
        sure=sure,
        status=state.get("Status", ""),
        url=url,
        published=published,
        pid=pid,
        env=env,
        store=_readable(on_host, pid, inside),
        store_inside=inside,
        store_mounted=on_host is not None,
        gpus=gpus_asked(facts["HostConfig"], env),
        memory_bytes=facts["HostConfig"].get("Memory") or None,
        compose="/".join(
            labels[name]
            for name in ("com.docker.compose.project", "com.docker.compose.service")
            if name in labels
        ),
        orchestrated=_orchestrator(labels),
        restarts=int(facts.get("RestartCount") or 0),
        changed=ASIDE_LABEL in labels,
    )


def _is_ollama(row: Mapping[str, Any]) -> bool:
    """By the image's name or the program it runs. A row of the list of containers."""
    repository = str(row.get("Image", "")).partition("@")[0]
    last = repository.rpartition("/")[2].partition(":")[0]
    words = str(row.get("Command", "")).split()
    runs = any(Path(word).name == "ollama" for word in words) and "serve" in words
    return last == "ollama" or runs


def _has_port(row: Mapping[str, Any]) -> bool:
    ports = row.get("Ports") or ()
    return any(DEFAULT_PORT in (port.get("PrivatePort"), port.get("PublicPort")) for port in ports)


def _way_in(api: Any, facts: Mapping[str, Any], port: int) -> tuple[str | None, bool]:
    """(URL of the port inside, whether it is published). Raises the SDK's errors."""
    mode = str(facts["HostConfig"].get("NetworkMode", ""))
    if mode.startswith("container:"):  # it lives in another container's network
        return _way_in(api, api.inspect_container(mode.partition(":")[2]), port)
    here = remote_host() or "127.0.0.1"
    if mode == "host":
        return Address(host=here, port=port).url, True
    network = facts.get("NetworkSettings") or {}
    bindings = (network.get("Ports") or {}).get(f"{port}/tcp") or ()
    for binding in sorted(bindings, key=lambda binding: ":" in binding.get("HostIp", "")):
        host = binding.get("HostIp", "")
        return Address(host=here if host in _EVERYWHERE else host, port=int(binding["HostPort"])).url, True
    networks = (network.get("Networks") or {}).values()
    ip = network.get("IPAddress") or next((net["IPAddress"] for net in networks if net.get("IPAddress")), "")
    return (Address(host=ip, port=port).url if ip and not remote_host() else None), False


def _pid_here(facts: Mapping[str, Any]) -> int | None:
    """The container's Ollama among this machine's processes.

    Docker may run in a virtual machine, where its process numbers mean nothing here: the control group must
    name the container, or the process must be as old as the container's start.
    """
    first = int(facts["State"].get("Pid") or 0)
    if not first or remote_host():
        return None
    age = started_s(first)
    start = parse_time(str(facts["State"].get("StartedAt", "")))
    same_time = age is not None and start is not None and abs(age - start.timestamp()) < _SAME_START_S
    if processes.container_id(first) != facts["Id"] and not same_time:
        return None
    servers = [pid for pid in sorted(family(first)) if processes.is_ollama(pid)]
    return servers[0] if servers else first


def _store_inside(env: Mapping[str, str]) -> str:
    named = env.get("OLLAMA_MODELS", "").strip(" '\"")
    return named or f"{env.get('HOME') or _LAST_RESORT_HOME}/.ollama/models"


def _on_host(mounts: Any, inside: str) -> str | None:
    """The host's folder behind that path of the container: the deepest mount that holds it."""
    holding = [
        mount
        for mount in mounts
        if mount.get("Source") and Path(inside).is_relative_to(mount.get("Destination") or "/nowhere")
    ]
    if not holding:
        return None
    deepest = max(holding, key=lambda mount: len(Path(mount["Destination"]).parts))
    return str(Path(deepest["Source"]) / Path(inside).relative_to(deepest["Destination"]))


def _readable(on_host: str | None, pid: int | None, inside: str) -> str | None:
    paths = [on_host, f"/proc/{pid}/root{inside}" if pid else None]
    if remote_host():
        return None
    return next((path for path in paths if path and processes.readable_store(path)), None)


def gpus_asked(host: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, ...]:
    """The cards that a container was created with: "all", "×2", ids, device nodes; empty where none.
    ``host`` is what inspect tells as HostConfig."""
    found = []
    for request in host.get("DeviceRequests") or ():
        kinds = [kind for group in request.get("Capabilities") or () for kind in group]
        ids = [str(name).rpartition("=")[2] for name in request.get("DeviceIDs") or ()]
        if "gpu" in kinds or request.get("Driver") in ("nvidia", "cdi"):
            count = int(request.get("Count") or 0)
            found.append(",".join(ids) or ("all" if count < 0 else f"×{count}"))
    if not found and host.get("Runtime") == "nvidia":  # the older way, with the image's own variable
        found.append(env.get("NVIDIA_VISIBLE_DEVICES", "all"))
    devices = [str(device.get("PathOnHost", "")) for device in host.get("Devices") or ()]
    found += [path for path in devices if path.startswith(("/dev/dri", "/dev/kfd", "/dev/nvidia"))]
    return tuple(found)


def _orchestrator(labels: Mapping[str, str]) -> str:
    if "com.docker.swarm.service.id" in labels:
        return "Docker Swarm"
    return "Kubernetes" if any(name.startswith("io.kubernetes.") for name in labels) else ""


def _environment() -> dict[str, str]:
    """The process's environment, with the socket that is there where the usual one is not."""
    env = dict(os.environ)
    if env.get("DOCKER_HOST") or _USUAL.exists():
        return env
    others = (Path(os.path.expandvars(name)).expanduser() for name in _OTHER_SOCKETS)
    other = next((path for path in others if _is_socket(path)), None)
    return env | {"DOCKER_HOST": f"unix://{other}"} if other else env


def _is_socket(path: Path) -> bool:
    """A folder that this user may not enter holds none for it."""
    try:
        return path.is_socket()
    except OSError:
        return False


def missing() -> type[Exception]:
    """What the SDK raises for a container that is not there any more."""
    from docker.errors import NotFound

    return NotFound


def _why(error: Exception) -> str:
    text = str(error)
    if "Permission" in text:
        return "this user may not ask Docker (see «docker group», or use sudo)"
    if any(word in text for word in ("FileNotFoundError", "ConnectionRefused", "No such file")):
        return "no Docker daemon answers here"
    explanation = getattr(error, "explanation", None)
    return f"Docker says: {explanation or text}"
