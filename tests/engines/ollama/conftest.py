"""An Ollama as narthex meets it: a fake one with a real llama-server and a real model, found and opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama.discovery import engine_of, find_server
from narthex.engines.ollama.loading import OllamaLoader
from narthex.engines.ollama.logs import open_log
from narthex.host.collect import collect_host
from narthex.knobs import KnobValues
from narthex.testing.fake_ollama import FakeOllama

Load = Callable[..., OllamaLoader]


@pytest.fixture
def fake(fake_ollama: Callable[..., FakeOllama], gemma: Path) -> FakeOllama:
    """One real model under two names; the second has PARAMETERs of its own."""
    fake = fake_ollama(models={"small": gemma})
    fake.add_model("small-tuned", gemma, {"num_ctx": 1024, "num_thread": 1})
    return fake


@pytest.fixture
def loader(tmp_path: Path) -> Load:
    """``loader(fake, "small")``: the server found, its engine probed."""

    def make(fake: FakeOllama, model: str = "small", **options: Any) -> OllamaLoader:
        server = find_server(fake.url)
        engine = engine_of(server, collect_host(), open_log(server))
        given = {"blob": None, "log_dir": tmp_path / "logs", **options}
        return OllamaLoader(server, engine, model, **given)

    return make


@pytest.fixture
def knobs() -> KnobValues:
    """Small and quick."""
    return KnobValues(num_ctx=512, batch=512, ubatch=512, threads=2)
