"""On a real Ollama contract tests change only models called ``narthex-test-*``, and put residents back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError

import pytest

from narthex.engines.ollama.names import parse_time
from narthex.testing.real_ollama import call

FOREVER_YEARS = 20
SETTLE_S = 30.0
COPY = "narthex-test-contract"


@pytest.fixture(scope="module", autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """What was loaded before is loaded after, what was not is not."""
    if "ollama" not in request.fixturenames:
        yield
        return
    url = request.getfixturevalue("ollama")
    before = loaded(url)
    yield
    for name in loaded(url).keys() - before.keys():
        call(url, "/api/generate", {"model": name, "keep_alive": 0})
    for name, resident in before.items():
        ctx = {"options": {"num_ctx": resident["context_length"]}} if "context_length" in resident else {}
        call(url, "/api/generate", {"model": name, "keep_alive": seconds_left(resident), **ctx})


@pytest.fixture
def tuned(ollama: str, ollama_model: str) -> Iterator[str]:
    """A model made of the other one, with a context of its own; deleted at the end."""
    body = {"model": COPY, "from": ollama_model, "parameters": {"num_ctx": 1024}, "stream": False}
    assert call(ollama, "/api/create", body) == {"status": "success"}
    yield f"{COPY}:latest"
    with contextlib.suppress(HTTPError):
        call(ollama, "/api/generate", {"model": COPY, "keep_alive": 0})
        call(ollama, "/api/delete", {"model": COPY}, method="DELETE")


@pytest.fixture
def unloaded(ollama: str, ollama_model: str) -> str:
    """The model, and it is not loaded."""
    call(ollama, "/api/generate", {"model": ollama_model, "keep_alive": 0})
    assert settles(lambda: ollama_model not in loaded(ollama))
    return ollama_model


def settles(true: Callable[[], bool]) -> bool:
    """Whether that comes true: Ollama answers a request before its scheduler has drawn the consequences."""
    until = time.monotonic() + SETTLE_S
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def loaded(url: str) -> dict[str, dict[str, Any]]:
    """What ``/api/ps`` lists, by name."""
    return {str(model["name"]): model for model in call(url, "/api/ps")["models"]}


def seconds_left(resident: dict[str, Any]) -> float:
    """The keep-alive that a resident has left; −1 for ever."""
    until = parse_time(str(resident["expires_at"]))
    assert until is not None
    left = (until - datetime.now(UTC)).total_seconds()
    return -1 if left > FOREVER_YEARS * 365 * 86400 else max(left, 1.0)
