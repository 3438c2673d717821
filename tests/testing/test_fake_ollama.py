"""The fake Ollama serves a real model through a real llama-server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Start = Callable[..., FakeOllama]


def test_a_model_is_loaded_listed_and_unloaded(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    assert call(fake.url, "/api/ps") == {"models": []}
    assert call(fake.url, "/api/generate", {"model": "small"})["done_reason"] == "load"
    (resident,) = call(fake.url, "/api/ps")["models"]
    assert resident["name"] == "small:latest"
    assert len(fake.runner_pids()) == 1
    assert call(fake.url, "/api/generate", {"model": "small", "keep_alive": 0})["done_reason"] == "unload"
    assert call(fake.url, "/api/ps") == {"models": []}
