"""Recorded hosts, and a look at what a collector says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect.gather import Scope
from narthex.testing.fake_docker import FakeDocker
from narthex.testing.host_tree import plant

HOSTS = Path(__file__).parents[2] / "data" / "doctor" / "hosts"


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Scope]:
    """``host("healthy")``: a scope that looks at a recorded machine."""

    def make(name: str, **options: Any) -> Scope:
        return Scope(root=plant(HOSTS / f"{name}.tree", tmp_path / name), **options)

    return make


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A socket's path at which nobody was ever."""
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


@pytest.fixture
def fake_docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    """A real server on a Unix socket that the real Docker SDK asks."""
    with FakeDocker() as running:
        monkeypatch.setenv("DOCKER_HOST", running.host)
        yield running
