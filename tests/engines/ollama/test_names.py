"""Names of models as people type them and as Ollama stores them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from narthex.engines.ollama.names import canonical, is_cloud, parse_time, same, short
from narthex.engines.ollama.records import Tag
from narthex.errors import UsageError


@pytest.mark.parametrize(
    ("name", "whole", "brief"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("qwen3:30b-a3b", "registry.ollama.ai/library/qwen3:30b-a3b", "qwen3:30b-a3b"),
        ("user/model", "registry.ollama.ai/user/model:latest", "user/model:latest"),
        ("hf.co/u/r-GGUF:Q4_K_M", "hf.co/u/r-GGUF:Q4_K_M", "hf.co/u/r-GGUF:Q4_K_M"),
        ("localhost:5000/me/m:v1", "localhost:5000/me/m:v1", "localhost:5000/me/m:v1"),
        ("registry.ollama.ai/library/a:b", "registry.ollama.ai/library/a:b", "a:b"),
        (" _x ", "registry.ollama.ai/library/_x:latest", "_x:latest"),
    ],
)
def test_a_name_has_a_whole_and_a_short_form(name: str, whole: str, brief: str) -> None:
    assert canonical(name) == whole
    assert short(name) == brief
    assert canonical(short(name)) == whole


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":latest",
        "model:",
        "-model",
        "mo del",
        "../../etc/passwd",
        "./model.gguf",
        "/abs/model.gguf",
        "hf.co/model",
        "a//b",
        "a/b/c/d",
        "model:tag:tag",
        "модель",
        "m" * 81,
        "m?x=1",
    ],
)
def test_an_impossible_name_says_how_a_name_looks(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        canonical(name)
    assert f"«{name}»" in caught.value.message
    assert "narthex models" in caught.value.hint


def test_case_and_defaults_do_not_make_two_models() -> None:
    assert same("Llama3.2", "registry.ollama.ai/library/llama3.2:LATEST")
    assert not same("llama3.2", "llama3.2:1b")
    assert not same("a", "u/a")
    assert same("im possible", "im possible")
    assert not same("im possible", "model")


def test_cloud_stubs_are_told_apart() -> None:
    assert is_cloud(Tag(name="gpt-oss:120b-cloud"))
    assert is_cloud(Tag(name="glm:cloud"))
    assert is_cloud(Tag(name="x:latest", remote_host="https://ollama.com:443"))
    assert not is_cloud(Tag(name="my-cloud:latest"))


def test_times_of_go_are_read_to_the_microsecond() -> None:
    assert parse_time("2026-11-22T11:19:21.857317116Z") == datetime(
        2026, 11, 22, 11, 19, 21, 857317, tzinfo=UTC
    )
    assert parse_time("2319-03-04T10:00:00.1+01:00") == datetime(2319, 3, 4, 9, 0, 0, 100000, tzinfo=UTC)
    assert parse_time("0001-01-01T00:00:00Z") == datetime(1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "2026-13-40T00:00:00Z", "2026-11-22T11:19:21"])
def test_a_time_that_is_none(text: str) -> None:
    assert parse_time(text) is None
