"""The Docker engine and what it needs for GPUs: runtimes, toolkit, CDI files, its own settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.docker_view import WAIT_S, DockerView, docker_view
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact

NAME = "Docker"
TIME_S = WAIT_S

_TOOLS = ("nvidia-ctk", "nvidia-container-cli", "nvidia-container-runtime")
_TOOL_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/local/nvidia/toolkit", "/run/current-system/sw/bin")
_CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi", "/run/cdi")
_CDI_DRIVER = re.compile(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)")
_SETTINGS = ("/etc/docker/daemon.json", "/var/snap/docker/current/config/daemon.json")
_OWN_SETTINGS = ".config/docker/daemon.json"  # of a rootless engine
_CGROUP_OPTION = "native.cgroupdriver="


def collect(scope: Scope) -> Collected:
    """Files tell of the toolkit and the settings also where the engine can't be asked."""
    view = docker_view(scope)
    engine = Reading(name="docker.engine", value=view.engine, text=_engine(view))
    settings = list(_settings(scope))
    readings = (
        engine,
        *_told(view, settings),
        *_installs(scope),
        _toolkit(scope),
        *_cdi(scope),
        *_parsed(settings),
    )
    return Collected(readings=readings, facts=tuple(_facts(view)))


def _engine(view: DockerView) -> str:
    if view.engine == "ok":
        return (
            f"Docker {view.info.get('ServerVersion', '?')} answers ({view.info.get('OperatingSystem', '?')})"
        )
    return view.why


def _told(view: DockerView, settings: list[_File]) -> Iterator[Reading]:
    """From ``docker info``; without an answer a gap of each, the control groups as the settings have them."""
    names = ("docker.version", "docker.runtimes", "docker.default_runtime", "docker.cgroup_driver")
    if view.engine != "ok":
        driver = next((found for file in settings if (found := _cgroup_option(file.content))), "")
        for name in names[: 3 if driver else 4]:
            yield gap(name, view.why)
        if driver:
            text = f"the settings of Docker say {_CGROUP_OPTION}{driver}"
            yield Reading(name="docker.cgroup_driver", value=driver, text=text)
        return
    info = view.info
    runtimes = sorted(name for name in info.get("Runtimes") or {})
    values = (
        info.get("ServerVersion", ""),
        runtimes,
        info.get("DefaultRuntime", ""),
        info.get("CgroupDriver", ""),
    )
    for name, value, words in zip(
        names, values, ("version", "runtimes", "default runtime", "cgroup driver"), strict=True
    ):
        said = ", ".join(value) if isinstance(value, list) else value
        yield Reading(name=name, value=value, text=f"docker info: {words} {said or 'none'}")
    rootless = any("rootless" in str(option) for option in info.get("SecurityOptions") or ())
    text = f"the Docker engine has {'no rights of root (rootless)' if rootless else 'the rights of root'}"
    yield Reading(name="docker.rootless", value=rootless, text=text)
    where = "in the virtual machine of Docker Desktop" if view.is_desktop else "on this machine itself"
    yield Reading(name="docker.desktop", value=view.is_desktop, text=f"the Docker engine is {where}")


def _installs(scope: Scope) -> Iterator[Reading]:
    found = []
    if scope.has("/snap/docker/current") or scope.has("/var/snap/docker/current"):
        found.append("snap")
    if any(scope.has(f"/var/lib/dpkg/info/{name}.list") for name in ("docker-ce", "docker.io")):
        found.append("apt")
    elif any(scope.has(f"/usr/{place}/dockerd") for place in ("bin", "sbin", "local/bin")):
        found.append("package")
    if scope.has("/opt/docker-desktop"):
        found.append("desktop")
    text = f"Docker is installed {len(found)} times: {', '.join(found)}" if len(found) > 1 else ""
    text = text or (
        f"Docker is installed from: {found[0]}"
        if found
        else "no installation of a Docker engine is found here"
    )
    yield Reading(name="docker.installs", value=found, text=text)


def _toolkit(scope: Scope) -> Reading:
    there = [
        f"{folder}/{name}" for name in _TOOLS for folder in _TOOL_FOLDERS if scope.has(f"{folder}/{name}")
    ]
    names = {path.rpartition("/")[2] for path in there}
    lacks = [name for name in _TOOLS if name not in names]
    text = (
        f"NVIDIA Container Toolkit: {', '.join(there)}"
        if there
        else "NVIDIA Container Toolkit is not installed"
    )
    text += f" (not found: {', '.join(lacks)})" if there and lacks else ""
    return Reading(name="docker.toolkit", value=there[0] if there else "", text=text)


def _cdi(scope: Scope) -> Iterator[Reading]:
    """CDI files for NVIDIA; one of an older driver names libraries that are gone."""
    found: dict[str, str] = {}
    for folder in _CDI_FOLDERS:
        for name in scope.names(folder):
            path = f"{folder}/{name}"
            text = scope.read(path) if name.endswith((".yaml", ".yml", ".json")) else None
            if text is not None and "nvidia.com/" in text:
                found.setdefault(str(scope.path(path).resolve()), path)
    files = list(found.values())
    yield Reading(name="docker.cdi", value=files, text=f"CDI files for NVIDIA: {', '.join(files) or 'none'}")
    for file in files[:1]:
        if version := _CDI_DRIVER.search(scope.read(file) or ""):
            text = f"{file} names the driver {version[1]}"
            yield Reading(name="docker.cdi_driver", value=version[1], text=text, about=file)


class _File(msgspec.Struct, frozen=True):
    path: str
    content: Any = None
    wrong: str = ""  # why it can't be used


def _settings(scope: Scope) -> Iterator[_File]:
    for path in (*_SETTINGS, str(Path.home() / _OWN_SETTINGS)):
        try:
            raw = scope.path(path).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield _File(path, wrong=f"?{error.strerror}")
            continue
        try:
            yield _File(path, msgspec.json.decode(raw) if raw.strip() else {})
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield _File(path, wrong=str(error))


def _parsed(settings: list[_File]) -> Iterator[Reading]:
    for file in settings:
        if file.wrong.startswith("?"):
            yield gap(
                "docker.daemon_json", f"{file.path} can't be read: {file.wrong[1:]}; root may", file.path
            )
            continue
        text = f"{file.path} does not parse: {file.wrong}" if file.wrong else f"{file.path} parses"
        yield Reading(name="docker.daemon_json", value=file.wrong or "ok", text=text, about=file.path)


def _cgroup_option(content: Any) -> str:
    options = content.get("exec-opts") if isinstance(content, dict) else None
    rows = options if isinstance(options, list) else []
    found = [str(option) for option in rows if str(option).startswith(_CGROUP_OPTION)]
    return found[-1].removeprefix(_CGROUP_OPTION) if found else ""


def _facts(view: DockerView) -> Iterator[Fact]:
    if view.engine == "ok":
        yield Fact(text=f"{_engine(view)}.")
        if "nvidia" in (view.info.get("Runtimes") or {}):
            yield Fact(text="Docker has the runtime nvidia.")
    if view.engine == "absent" and not os.environ.get("DOCKER_HOST"):
        yield Fact(text="No Docker engine is installed here.")
