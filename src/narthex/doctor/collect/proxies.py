"""Proxy variables: whoever is caught by one may ask a stranger for what runs beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.docker_view import WAIT_S, docker_view
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.redact import hide_secrets
from narthex.engines.ollama import processes
from narthex.host.processes import environment

NAME = "proxies"
TIME_S = WAIT_S

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_ENGINE = {"HttpProxy": "HTTP_PROXY", "HttpsProxy": "HTTPS_PROXY", "NoProxy": "NO_PROXY"}


def collect(scope: Scope) -> Collected:
    """Of this shell always; of a container, a server and the Docker engine where one is set. Names and
    passwords in them are left out."""
    return Collected(readings=tuple(_readings(scope)))


def proxies_in(env: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables, as they are spelled there, without names and passwords."""
    return {
        name: _without_user(value) for name, value in sorted(env.items()) if name.lower() in NAMES and value
    }


def _without_user(value: str) -> str:
    """A proxy may be written with a scheme or without."""
    return hide_secrets(value) if "://" in value else value.rpartition("@")[2]


def _readings(scope: Scope) -> Iterator[Reading]:
    yield _said("this shell", proxies_in(os.environ))
    for pid in processes.server_pids() if scope.is_this_machine else ():
        if processes.container_id(pid) is None and (found := proxies_in(environment(pid))):
            yield _said(f"ollama (PID {pid})", found)
    view = docker_view(scope)
    engine = {name: str(view.info.get(key) or "") for key, name in _ENGINE.items()}
    if found := proxies_in(engine):
        yield _said("the Docker engine", found)
    for container in view.containers:
        if found := proxies_in(container.all_env):
            yield _said(container.name, found)


def _said(about: str, found: dict[str, str]) -> Reading:
    told = " ".join(f"{name}={value}" for name, value in found.items()) or "no proxy is set"
    return Reading(name="proxy", value=found, text=f"{about}: {told}", about=about)
