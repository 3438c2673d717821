"""What narthex relies on in an Ollama: the same tests on the fake and on a real one (NARTHEX_TEST_OLLAMA)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.error import HTTPError

import pytest

from narthex.engines.ollama.eras import Version, parse_version
from narthex.engines.ollama.names import parse_time
from narthex.testing.real_ollama import call

from .conftest import loaded, settles

pytestmark = pytest.mark.engine

FEW = {"num_predict": 8, "temperature": 0, "seed": 1}
LONG = "one two three four five six seven eight nine ten " * 60
Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(ollama: str) -> Callable[..., dict[str, Any]]:
    return lambda path, body=None, method=None: call(ollama, path, body, method=method)


@pytest.fixture
def refused(ollama: str) -> Refused:
    """Status and text of a request that must not be granted."""

    def send(path: str, body: dict[str, Any], method: str | None = None) -> tuple[int, str]:
        with pytest.raises(HTTPError) as caught:
            call(ollama, path, body, method=method)
        return caught.value.code, str(json.loads(caught.value.read())["error"])

    return send


def lines_of(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    asked = urllib.request.Request(url + path, data=json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=300) as answer:
        return [json.loads(line) for line in answer if line.strip()]


def resident(ollama: str, name: str) -> dict[str, Any]:
    found = loaded(ollama)
    assert name in found, f"{name} is not among {sorted(found)}"
    return found[name]


def expires(ollama: str, name: str) -> datetime | None:
    return parse_time(resident(ollama, name)["expires_at"])


def test_it_says_its_version(ask: Callable[..., Any]) -> None:
    assert list(ask("/api/version")) == ["version"]


def test_a_stored_model_is_listed_with_its_size_and_quantisation(
    ask: Callable[..., Any], ollama_model: str
) -> None:
    tags = {tag["name"]: tag for tag in ask("/api/tags")["models"]}
    tag = tags[ollama_model]
    assert tag["size"] > 0
    assert len(tag["digest"]) == 64
    assert tag["details"].keys() >= {"format", "family", "parameter_size", "quantization_level"}


def test_show_tells_the_metadata_and_hides_arrays(ask: Callable[..., Any], ollama_model: str) -> None:
    shown = ask("/api/show", {"model": ollama_model})
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.block_count"] > 0
    assert shown["model_info"].get("tokenizer.ggml.tokens") is None
    assert shown["tensors"][0].keys() == {"name", "type", "shape"}


def test_a_load_without_prompt_ends_when_the_model_is_there(
    ask: Callable[..., Any], ollama: str, unloaded: str
) -> None:
    said = ask("/api/generate", {"model": unloaded, "options": {"num_ctx": 512}})
    assert (said["done"], said["done_reason"]) == (True, "load")
    assert "eval_count" not in said
    assert resident(ollama, unloaded)["context_length"] == 512


def test_an_unload_answers_at_once_and_the_model_goes(
    ask: Callable[..., Any], ollama: str, unloaded: str
) -> None:
    ask("/api/generate", {"model": unloaded, "options": {"num_ctx": 512}})
    said = ask("/api/generate", {"model": unloaded, "keep_alive": 0})
    assert said["done_reason"] == "unload"
    assert settles(lambda: unloaded not in loaded(ollama))


def test_another_context_reloads_and_sampling_does_not(
    ask: Callable[..., Any], ollama: str, unloaded: str
) -> None:
    ask("/api/generate", {"model": unloaded, "options": {"num_ctx": 512}})
    ask(
        "/api/generate",
        {"model": unloaded, "options": {"num_ctx": 512, "temperature": 0.1, "num_predict": 3}},
    )
    assert resident(ollama, unloaded)["context_length"] == 512
    ask("/api/generate", {"model": unloaded, "options": {"num_ctx": 768}})
    assert resident(ollama, unloaded)["context_length"] == 768


def test_the_keep_alive_counts_from_the_end_of_a_request(
    ask: Callable[..., Any], ollama: str, unloaded: str
) -> None:
    options = {"num_ctx": 512}
    ask("/api/generate", {"model": unloaded, "options": options, "keep_alive": -1})
    for_ever = expires(ollama, unloaded)
    assert for_ever is not None
    assert for_ever.year > 2300
    ask("/api/generate", {"model": unloaded, "options": options, "keep_alive": "10m"})
    assert settles(lambda: (expires(ollama, unloaded) or for_ever) < for_ever)
    ask("/api/generate", {"model": unloaded, "options": options})
    assert expires(ollama, unloaded) not in (None, for_ever)


@pytest.mark.parametrize("text", ["600", "-1", "soon"])
def test_a_keep_alive_without_a_unit_is_refused(refused: Refused, ollama_model: str, text: str) -> None:
    status, words = refused("/api/generate", {"model": ollama_model, "keep_alive": text})
    assert status == 400
    assert words.startswith("time: ")


def test_a_raw_prompt_is_counted_and_timed(ask: Callable[..., Any], ollama_model: str) -> None:
    options = {**FEW, "num_ctx": 512}
    body = {"model": ollama_model, "prompt": "The sky is", "raw": True, "stream": False, "options": options}
    said = ask("/api/generate", body)
    assert said["eval_count"] == 8
    assert said["done_reason"] == "length"
    assert 0 < said["prompt_eval_count"] < 16
    assert said["prompt_eval_duration"] > 0
    assert "context" not in said


def test_a_stream_ends_with_the_figures(ollama: str, ollama_model: str) -> None:
    options = {**FEW, "num_ctx": 512}
    body = {"model": ollama_model, "prompt": "The sky is", "raw": True, "options": options}
    *parts, last = lines_of(ollama, "/api/generate", body)
    assert parts
    assert not any(part["done"] for part in parts)
    assert last["done"]
    assert last["eval_count"] == 8


def test_a_prompt_too_long_is_cut_in_silence(ask: Callable[..., Any], ollama_model: str) -> None:
    options = {**FEW, "num_ctx": 256}
    body = {"model": ollama_model, "prompt": LONG, "raw": True, "stream": False, "options": options}
    assert ask("/api/generate", body)["prompt_eval_count"] < 256


def test_a_prompt_too_long_is_refused_without_truncation(
    ask: Callable[..., Any], refused: Refused, ollama_model: str
) -> None:
    if parse_version(ask("/api/version")["version"]) < Version(0, 12, 6):
        pytest.skip("this Ollama knows no «truncate»")
    options = {**FEW, "num_ctx": 256}
    body = {"model": ollama_model, "prompt": LONG, "raw": True, "truncate": False, "options": options}
    status, words = refused("/api/generate", body)
    assert status == 400
    assert "exceeds the available context size" in words


def test_an_option_of_the_wrong_type_is_refused(refused: Refused, ollama_model: str) -> None:
    body = {"model": ollama_model, "options": {"num_ctx": "4096"}}
    assert refused("/api/generate", body) == (500, 'option "num_ctx" must be of type integer')


def test_a_created_model_carries_its_parameters(
    ask: Callable[..., Any], ollama: str, ollama_model: str, tuned: str
) -> None:
    assert "num_ctx" in ask("/api/show", {"model": tuned})["parameters"]
    ask("/api/generate", {"model": tuned})
    assert resident(ollama, tuned)["context_length"] == 1024


def test_two_names_of_one_file_share_a_runner(
    ask: Callable[..., Any], ollama: str, unloaded: str, tuned: str
) -> None:
    ask("/api/generate", {"model": unloaded, "options": {"num_ctx": 512}})
    ask("/api/generate", {"model": tuned})
    names = loaded(ollama)
    assert tuned in names
    assert unloaded not in names


def test_a_created_model_is_deleted(ask: Callable[..., Any], refused: Refused, tuned: str) -> None:
    ask("/api/delete", {"model": tuned}, "DELETE")
    assert tuned not in {tag["name"] for tag in ask("/api/tags")["models"]}
    status, _ = refused("/api/delete", {"model": tuned}, "DELETE")
    assert status == 404


def test_an_unknown_model_is_not_found(refused: Refused) -> None:
    assert refused("/api/generate", {"model": "narthex-test-nosuch"}) == (
        404,
        "model 'narthex-test-nosuch' not found",
    )
    assert refused("/api/show", {"model": "narthex-test-nosuch"})[0] == 404


def test_a_completion_model_makes_no_embeddings(refused: Refused, ollama_model: str) -> None:
    status, words = refused("/api/embed", {"model": ollama_model, "input": "hello"})
    assert status >= 400
    assert "embeddings" in words
