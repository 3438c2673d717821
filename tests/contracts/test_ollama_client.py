"""The official Python client drives the server: our reading of the API is checked by someone else's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import settles

pytestmark = pytest.mark.engine
FEW = {"num_predict": 6, "temperature": 0, "seed": 1, "num_ctx": 512}
MADE = "narthex-test-by-client"


@pytest.fixture(scope="module")
def package() -> Any:
    return pytest.importorskip("ollama", reason="the official client is not installed")


@pytest.fixture
def client(package: Any, ollama: str) -> Any:
    return package.Client(host=ollama)


@pytest.fixture
def made(client: Any, ollama_model: str) -> Iterator[str]:
    """A model that the client creates and deletes."""
    states = [line.status for line in client.create(MADE, from_=ollama_model, parameters=FEW, stream=True)]
    assert states[-1] == "success"
    yield MADE
    assert client.delete(MADE).status == "success"


def test_list(client: Any, ollama_model: str) -> None:
    (found,) = [model for model in client.list().models if model.model == ollama_model]
    assert found.size > 0
    assert found.modified_at.year >= 2024
    assert found.details.format == "gguf"


def test_show(client: Any, ollama_model: str) -> None:
    shown = client.show(ollama_model)
    assert shown.modelinfo["general.architecture"]
    assert "completion" in shown.capabilities


def test_generate(client: Any, ollama_model: str) -> None:
    said = client.generate(ollama_model, "The sky is", raw=True, options=FEW)
    assert (said.done, said.eval_count) == (True, 6)
    assert said.response


def test_chat_as_a_stream(client: Any, ollama_model: str) -> None:
    messages = [{"role": "user", "content": "Name three colours."}]
    *parts, last = client.chat(ollama_model, messages, stream=True, options=FEW)
    assert "".join(part.message.content for part in parts)
    assert last.done
    assert last.prompt_eval_count > 0


def test_ps_and_unload(client: Any, ollama_model: str) -> None:
    client.generate(ollama_model, options=FEW)
    (found,) = [model for model in client.ps().models if model.model == ollama_model]
    assert found.size > 0
    assert found.expires_at is not None
    client.generate(ollama_model, keep_alive=0)
    assert settles(lambda: ollama_model not in [model.model for model in client.ps().models])


def test_a_model_made_from_another(client: Any, made: str) -> None:
    assert f"{made}:latest" in [model.model for model in client.list().models]
    assert "num_ctx" in client.show(made).parameters


def test_embeddings_of_a_completion_model_are_an_error(client: Any, package: Any, ollama_model: str) -> None:
    with pytest.raises(package.ResponseError) as caught:
        client.embed(ollama_model, "hello")
    assert caught.value.status_code >= 400


def test_an_unknown_model_is_an_error(client: Any, package: Any) -> None:
    with pytest.raises(package.ResponseError) as caught:
        client.generate("narthex-test-nosuch", "x")
    assert caught.value.status_code == 404
