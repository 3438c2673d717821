"""What the Docker engine tells, asked once a run: whether it answers, how it is set up, its containers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from narthex.doctor.collect.scope import Scope
from narthex.doctor.local_request import is_loopback
from narthex.engines.ollama import docker

ASK_S = 4  # one answer of the engine; on a healthy host it takes some milliseconds
WAIT_S = ASK_S + 1.0  # for whoever needs the view
_MOST = 60  # containers that are looked at closely, those of known roles first
_ROLES = ("ollama", "openwebui", "comfyui", "llama_server", "other")
_IMAGES = (  # the last part of an image's name, or what a label calls it
    ("openwebui", re.compile(r"open-?webui")),
    ("comfyui", re.compile(r"comfy-?ui")),
    ("llama_server", re.compile(r"llama[.-]?cpp|llama-server")),
    ("ollama", re.compile(r"^ollama")),
)
_PROGRAMS = {"llama-server": "llama_server", "open-webui": "openwebui", "comfyui": "comfyui"}
_PORTS = {11434: "ollama", 8188: "comfyui"}
_TITLE = "org.opencontainers.image.title"


class SeenContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A container; ``facts`` is what inspect tells, secrets and all: nothing of it is shown as it is."""

    id: str
    name: str
    role: str
    facts: dict[str, Any]

    @property
    def all_env(self) -> dict[str, str]:
        """Its variables, secrets too."""
        return docker.variables(self.facts["Config"].get("Env"))

    @property
    def state(self) -> dict[str, Any]:
        """Running, exit code, times."""
        return self.facts.get("State") or {}

    @property
    def is_running(self) -> bool:
        """Also one that is paused or starts anew again and again."""
        return bool(self.state.get("Running"))

    @property
    def model_folders(self) -> list[str]:
        """Folders of this machine that hold its Ollama's models."""
        if self.role != "ollama":
            return []
        inside = self.all_env.get("OLLAMA_MODELS", "").strip() or "/root/.ollama"
        mounts = self.facts.get("Mounts") or ()
        return [
            str(mount["Source"])
            for mount in mounts
            if mount.get("Source") and PurePosixPath(inside).is_relative_to(mount.get("Destination") or "/-")
        ]


class DockerView(msgspec.Struct, frozen=True, kw_only=True):
    """``engine``: «ok», «absent», «denied» or «down»; ``why`` a sentence, "" where it answers."""

    engine: str
    why: str = ""
    info: dict[str, Any] = {}
    containers: tuple[SeenContainer, ...] = ()
    unseen: str = ""  # why not all containers could be looked at

    @property
    def root(self) -> str:
        """The folder of its images and volumes; "" where it is not on this machine."""
        return "" if self.is_desktop or self.is_elsewhere else str(self.info.get("DockerRootDir") or "")

    @property
    def is_elsewhere(self) -> bool:
        """``DOCKER_HOST`` names another machine: its ports and folders are not this one's."""
        host = docker.remote_host()
        return host is not None and not is_loopback(f"http://{f'[{host}]' if ':' in host else host}")

    @property
    def is_desktop(self) -> bool:
        """It runs in a virtual machine."""
        return "Docker Desktop" in str(self.info.get("OperatingSystem"))

    def of_role(self, role: str) -> list[SeenContainer]:
        """Containers of one service, those that run first."""
        return sorted(
            (each for each in self.containers if each.role == role), key=lambda each: not each.is_running
        )


def docker_view(scope: Scope) -> DockerView:
    """The engine that ``DOCKER_HOST`` names, else the one of this machine."""
    return scope.once("docker", lambda: _look(scope))


def _look(scope: Scope) -> DockerView:
    if (closed := _closed(scope)) is not None:
        return closed
    try:
        with docker.connect(timeout_s=ASK_S) as api:
            info = dict(api.info())
    except docker.NoDocker as error:
        return _refused(str(error))
    found: list[SeenContainer] = []
    unseen = ""
    try:
        with docker.connect(timeout_s=ASK_S) as api:
            found.extend(_containers(api))
    except docker.NoDocker as error:  # the engine answers, and one container holds it up
        unseen = f"the Docker engine answers, and tells nothing more of its containers: {error}"
    return DockerView(engine="ok", info=info, containers=tuple(found), unseen=unseen)


def _closed(scope: Scope) -> DockerView | None:
    """Told by the socket alone where nobody listens at it; None where the engine has to be asked."""
    path = docker.socket_path()
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ASK_S)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return _nowhere(scope, path)
        except PermissionError:
            why = f"{path}: Permission denied; root, or a user in the group docker, may ask Docker"
            return DockerView(engine="denied", why=why)
        except ConnectionRefusedError:
            return DockerView(engine="down", why=f"{path} is there and nobody listens: Connection refused")
        except OSError as error:
            return DockerView(engine="down", why=f"{path}: {error.strerror or error}")
    return None


def _nowhere(scope: Scope, path: Path) -> DockerView:
    daemon = find_daemon(scope)
    if daemon or os.environ.get("DOCKER_HOST"):
        there = f"{daemon} is installed" if daemon else "DOCKER_HOST names it"
        return DockerView(
            engine="down", why=f"there is no {path}, and {there}: the Docker engine does not run"
        )
    return DockerView(
        engine="absent", why=f"there is no {path} and no dockerd: no Docker engine is installed here"
    )


def find_daemon(scope: Scope) -> str:
    """The path of a dockerd, "" where none is installed."""
    paths = (
        "/usr/bin/dockerd",
        "/usr/local/bin/dockerd",
        "/usr/sbin/dockerd",
        "/snap/docker/current/bin/dockerd",
    )
    return next((path for path in paths if scope.has(path)), "")


def _refused(why: str) -> DockerView:
    if "may not ask Docker" in why:
        return DockerView(engine="denied", why=why)
    if "timed out" in why.lower():
        why = f"the Docker engine takes the connection and does not answer within {ASK_S} s"
    return DockerView(engine="down", why=why)


def _containers(api: Any) -> Iterator[SeenContainer]:
    """Looked at one by one, the important first: what was seen before one hangs is kept."""
    rows = [(role_of(row), row) for row in api.containers(all=True)]
    rows.sort(key=lambda pair: (_ROLES.index(pair[0]), str(pair[1].get("State")) != "running"))
    for _, row in rows[:_MOST]:
        with contextlib.suppress(docker.missing()):  # it was removed meanwhile
            yield _seen(api.inspect_container(row["Id"]), row)


def _seen(facts: dict[str, Any], row: Mapping[str, Any]) -> SeenContainer:
    role = role_of(row)
    if role == "other" and any(str(each).startswith("WEBUI_") for each in facts["Config"].get("Env") or ()):
        role = "openwebui"
    return SeenContainer(id=facts["Id"], name=str(facts["Name"]).lstrip("/"), role=role, facts=facts)


def role_of(row: Mapping[str, Any]) -> str:
    """Which service a row of the list of containers holds: by its image, its label, its program, its port."""
    image = str(row.get("Image", "")).partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    whole = str(row.get("Image", "")).lower()
    title = str((row.get("Labels") or {}).get(_TITLE, "")).lower()
    for role, pattern in _IMAGES:
        if pattern.search(image) or pattern.search(title):
            return role
    if "llama.cpp" in whole:
        return "llama_server"
    words = [PurePosixPath(word).name.lower() for word in str(row.get("Command", "")).split()]
    if "ollama" in words and "serve" in words:
        return "ollama"
    if (program := next((word for word in words if word in _PROGRAMS), None)) is not None:
        return _PROGRAMS[program]
    inside = {port.get("PrivatePort") for port in row.get("Ports") or ()}
    return next((role for port, role in _PORTS.items() if port in inside), "other")
