"""NVIDIA's driver in its two halves: the module in the kernel and the libraries beside it."""

from __future__ import annotations

import re
from pathlib import Path

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact

NAME = "NVIDIA driver"
TIME_S = 1.0

_VERSION_FILE = "/proc/driver/nvidia/version"
_MODULE = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
_LIBRARY = "libnvidia-ml.so.1"
_FILE = re.compile(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)$")
_FOLDERS = (  # Debian, Red Hat and Arch, containers of the toolkit, NixOS, WSL
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
)


def collect(scope: Scope) -> Collected:
    """Both versions; a program that asks the card for the first time needs them to be the same."""
    module, library = _module(scope), _library(scope)
    facts = []
    if module.value is not None and module.value == library.value:
        facts.append(Fact(text=f"NVIDIA driver {module.value}: the loaded module and the library agree."))
    return Collected(readings=(module, library), facts=tuple(facts))


def _module(scope: Scope) -> Reading:
    key = "driver.module_version"
    text = scope.read(_VERSION_FILE)
    if found := _MODULE.search(text or ""):
        line = next(line for line in (text or "").splitlines() if found[1] in line)
        return Reading(name=key, value=found[1], text=f"{_VERSION_FILE}: {' '.join(line.split())}")
    version = (scope.read("/sys/module/nvidia/version") or "").strip()
    if version:
        return Reading(name=key, value=version, text=f"/sys/module/nvidia/version: {version}")
    return gap(key, f"no NVIDIA module is loaded: there is no {_VERSION_FILE}")


def _library(scope: Scope) -> Reading:
    key = "driver.library_version"
    seen: dict[Path, str] = {}
    plain = ""
    for folder in _FOLDERS:
        if not scope.has(f"{folder}/{_LIBRARY}"):
            continue
        real = (scope.path(folder) / _LIBRARY).resolve()
        plain = plain or f"{folder}/{_LIBRARY}"
        if found := _FILE.search(real.name):
            seen.setdefault(real, found[1])
    if not seen:
        known = f"the file behind {plain} has no version in its name" if plain else f"no {_LIBRARY} is found"
        return gap(key, known)
    real, version = next(iter(seen.items()))
    others = [f"{other.name}" for other, found in seen.items() if found != version]
    also = f" (also there: {', '.join(others)})" if others else ""
    return Reading(name=key, value=version, text=f"{_LIBRARY} is {real.name}{also}")
