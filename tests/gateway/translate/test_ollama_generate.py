"""``/api/generate`` and ``/api/embed`` on a real llama-server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ollama
import pytest

from .recorded import exchange, lines_of, same_shape
from .test_ollama_chat import lines, post

pytestmark = pytest.mark.engine

SURE = {"temperature": 0, "seed": 1, "num_predict": 8}


def test_a_prompt_without_a_template_goes_as_it_is(plain_url: str, shared: Path) -> None:
    theirs = exchange(shared, "033-generate-no-stream-warm")
    ours = json.loads(post(plain_url, "/api/generate", **{**theirs["request_body"], "model": "gemma"}))
    assert same_shape(ours, theirs["body"])
    assert ours["prompt_eval_count"] == theirs["body"]["prompt_eval_count"]
    assert ours["eval_count"] == theirs["body"]["eval_count"]


def test_a_stream_has_the_shape_of_ollamas(plain_url: str, shared: Path) -> None:
    theirs = exchange(shared, "035-generate-stream")
    ours = lines(post(plain_url, "/api/generate", **{**theirs["request_body"], "model": "gemma"}))
    rows = lines_of(theirs)
    assert same_shape(ours[0], rows[0])
    assert same_shape(ours[-1], rows[-1])


def test_probabilities_of_a_raw_prompt_have_ollamas_shape(llama_url: str, shared: Path) -> None:
    theirs = exchange(shared, "039-generate-raw-logprobs")
    ours = json.loads(post(llama_url, "/api/generate", **{**theirs["request_body"], "model": "gemma"}))
    assert same_shape(ours, theirs["body"])


def test_a_template_is_used_unless_the_prompt_is_raw(llama_url: str) -> None:
    client = ollama.Client(llama_url)
    asked: dict[str, Any] = {"model": "gemma", "prompt": "The sky is", "options": SURE}
    raw, put_in = client.generate(**asked, raw=True), client.generate(**asked, think=False)
    assert (raw.prompt_eval_count or 0) < (put_in.prompt_eval_count or 0)


def test_the_systems_words_reach_the_model(plain_url: str) -> None:
    client = ollama.Client(plain_url)
    asked: dict[str, Any] = {"model": "gemma", "prompt": "Hello.", "options": SURE}
    alone, told = client.generate(**asked), client.generate(**asked, system="You speak like a pirate.")
    assert (alone.prompt_eval_count or 0) + 5 < (told.prompt_eval_count or 0)


def test_an_answer_follows_a_schema(plain_url: str) -> None:
    form = {"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"]}
    answer = ollama.Client(plain_url).generate(
        "gemma", "Is it red? As JSON:", format=form, options={**SURE, "num_predict": 200}
    )
    assert list(json.loads(answer.response or "")) == ["red"]


def test_any_json_is_asked_for_with_one_word(plain_url: str) -> None:
    answer = ollama.Client(plain_url).generate("gemma", "A colour as JSON:", format="json", options=SURE)
    assert (answer.response or "").lstrip().startswith("{")


def test_a_model_that_fills_no_gaps_says_so(plain_url: str) -> None:
    with pytest.raises(ollama.ResponseError, match="Infill is not supported by this model") as caught:
        ollama.Client(plain_url).generate("gemma", "def ", suffix="return 1")
    assert caught.value.status_code == 501


def test_embeddings_have_length_one(embedding_url: str) -> None:
    answer = ollama.Client(embedding_url).embed("gemma", ["hello", "you"])
    assert [len(vector) for vector in answer.embeddings] == [640, 640]
    for vector in answer.embeddings:
        assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-4)
    assert answer.prompt_eval_count
    assert answer.total_duration


def test_fewer_dimensions_have_length_one_again(embedding_url: str) -> None:
    client = ollama.Client(embedding_url)
    short = client.embed("gemma", "hello", dimensions=64).embeddings[0]
    whole = client.embed("gemma", "hello").embeddings[0]
    assert len(short) == 64
    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-6)
    assert math.isclose(short[0] / short[1], whole[0] / whole[1], rel_tol=1e-4)


def test_the_old_route_gives_one_vector(embedding_url: str) -> None:
    client = ollama.Client(embedding_url)
    assert list(client.embeddings("gemma", "hello").embedding) == pytest.approx(
        list(client.embed("gemma", "hello").embeddings[0]), abs=1e-5
    )


def test_nothing_to_embed_gives_no_embeddings(embedding_url: str) -> None:
    nothings: tuple[Any, ...] = ([], "")
    for nothing in nothings:
        assert json.loads(post(embedding_url, "/api/embed", input=nothing))["embeddings"] == []
    assert json.loads(post(embedding_url, "/api/embeddings", prompt=""))["embedding"] == []


def test_a_server_that_embeds_nothing_says_so_as_ollama_does(plain_url: str, shared: Path) -> None:
    theirs = exchange(shared, "046-embed-on-completion-model")
    with pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(plain_url).embed("gemma", "hello")
    assert caught.value.status_code == theirs["status"]
    assert caught.value.error == theirs["body"]["error"]
