"""What other clients of an Ollama do beside narthex: they load models, and look at what is loaded."""

from __future__ import annotations

from typing import Any

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

FOREVER = -1
_SMALL = {"num_ctx": 256, "num_thread": 1}


def load(fake: FakeOllama, model: str, keep_alive: Any = None, **options: Any) -> None:
    """Load a model as a request without a prompt does."""
    body: dict[str, Any] = {"model": model, "options": {**_SMALL, **options}}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    call(fake.url, "/api/generate", body)


def listed(fake: FakeOllama) -> dict[str, Any]:
    """Name → what ``/api/ps`` says of it."""
    return {model["name"]: model for model in call(fake.url, "/api/ps")["models"]}


def stays_forever(resident: dict[str, Any]) -> bool:
    """Whether its keep-alive was -1: Ollama then says a day in 2319."""
    return str(resident["expires_at"]) > "2200"


def unload(fake: FakeOllama) -> None:
    """Let go of everything."""
    for name in listed(fake):
        call(fake.url, "/api/generate", {"model": name, "keep_alive": 0})
