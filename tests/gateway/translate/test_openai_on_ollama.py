"""OpenAI's API on a fake Ollama's own, asked by OpenAI's own client."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from narthex.gateway.offer import Offer, Upstream
from narthex.testing.fake_ollama import FakeOllama, add_model
from narthex.testing.ollama.shape import shape

from .front import front
from .recorded import exchange

pytestmark = pytest.mark.engine

OPTIONS = {"num_ctx": 1024, "num_batch": 128}
COLOURS: list[Any] = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def fake(engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeOllama]:
    store = tmp_path_factory.mktemp("ollama") / "models"
    add_model(store, "gemma", gemma)
    with FakeOllama(store, engine=engine_binary) as fake:
        yield fake


@pytest.fixture(scope="module")
def url(fake: FakeOllama) -> Iterator[str]:
    """The front's, for an offer whose settings travel with each request."""
    offer = Offer(key="k", backend="ollama", name="tuned", model="gemma", twin="g", options=OPTIONS)
    upstream = Upstream(url=fake.url, dialect="ollama", model="gemma")
    with front(msgspec.structs.replace(offer, refuses_long=True), upstream) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        return json.loads(answer.read())


def test_an_answer_has_the_shape_of_ollamas_own(client: openai.OpenAI, shared: Path) -> None:
    theirs = exchange(shared, "048-v1-chat-no-stream")
    asked = {**theirs["request_body"], "model": "tuned"}
    answer = client.chat.completions.with_raw_response.create(**asked)
    assert shape(json.loads(answer.text)) == shape(theirs["body"])


def test_the_settings_of_the_offer_are_loaded(client: openai.OpenAI, fake: FakeOllama) -> None:
    client.chat.completions.create(model="tuned", messages=COLOURS, max_tokens=1)
    assert get(fake.url, "/api/ps")["models"][0]["context_length"] == OPTIONS["num_ctx"]


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tuned",
        "messages": COLOURS,
        "max_tokens": 8,
        "temperature": 0,
        "seed": 1,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert not chunks[-1].choices
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id} != {whole.id}


def test_figures_that_nobody_asked_for_are_not_in_a_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tuned", messages=COLOURS, max_tokens=2, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_a_completion_has_the_shape_of_ollamas_own(client: openai.OpenAI, shared: Path) -> None:
    theirs = exchange(shared, "050-v1-completions")
    asked = {**theirs["request_body"], "model": "tuned"}
    answer = client.completions.with_raw_response.create(**asked)
    assert shape(json.loads(answer.text)) == shape(theirs["body"])
    said = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in said) == json.loads(answer.text)["choices"][0]["text"]


def test_an_error_keeps_ollamas_words_and_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        client.chat.completions.create(
            model="tuned",
            messages=COLOURS,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        )


def test_a_prompt_too_long_is_refused_and_not_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        client.chat.completions.create(
            model="tuned", messages=[{"role": "user", "content": "one two " * 1500}], max_tokens=1
        )


@pytest.mark.parametrize("more", [{"n": 2}, {"logit_bias": {"1": 2}}, {"modalities": ["audio"]}])
def test_what_ollama_has_no_word_for_is_refused(client: openai.OpenAI, more: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="not_mappable") as caught:
        client.chat.completions.create(model="tuned", messages=COLOURS, extra_body=more)
    assert next(iter(more)) in str(caught.value)


def test_responses_name_the_way_out(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="narthex apply"):
        client.responses.create(model="tuned", input="Hello.")


def test_without_settings_to_carry_nothing_is_translated(
    fake: FakeOllama, shared: Path, make_offer: Callable[..., Offer]
) -> None:
    theirs = exchange(shared, "048-v1-chat-no-stream")
    upstream = Upstream(url=fake.url, dialect="ollama", model="gemma")
    with (
        front(make_offer(), upstream) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        asked = {**theirs["request_body"], "model": "tuned"}
        assert client.chat.completions.create(**asked).choices[0].message.content


@pytest.fixture
def make_offer() -> Callable[..., Offer]:
    def make(**changes: Any) -> Offer:
        values = {"key": "k", "backend": "ollama", "name": "tuned", "model": "gemma", "twin": "g"}
        return msgspec.convert({**values, **changes}, Offer)

    return make
