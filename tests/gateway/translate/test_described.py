"""What is told about a model file, beside what a real Ollama tells about the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from narthex.gateway.translate import described
from narthex.gateway.trouble import Trouble
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.shape import shape

from .conftest import llama_offer
from .recorded import exchange


def test_a_tag_is_what_ollama_lists(gemma: Path, shared: Path) -> None:
    theirs = exchange(shared, "013-tags-filled")["body"]["models"]
    recorded = next(row for row in theirs if row["name"] == "gemma3-270m:latest")
    ours = described.tag_of(llama_offer(gemma))
    assert list(ours) == list(recorded)
    assert shape(ours) == shape(recorded)
    assert ours["details"] == recorded["details"]
    assert ours["size"] == gemma.stat().st_size


def test_a_model_is_shown_as_ollama_shows_it(gemma: Path, shared: Path) -> None:
    theirs = exchange(shared, "016-show-plain")["body"]
    ours = described.show_of(llama_offer(gemma))
    assert list(ours) == list(theirs)
    assert ours["details"] == theirs["details"]
    assert list(ours["model_info"]) == list(theirs["model_info"])
    exact = {name: value for name, value in theirs["model_info"].items() if not isinstance(value, float)}
    assert {name: ours["model_info"][name] for name in exact} == exact
    by_name = {row["name"]: row for row in ours["tensors"]}
    assert by_name == {row["name"]: row for row in theirs["tensors"]}


def test_the_context_of_the_setting_is_a_parameter(gemma: Path) -> None:
    shown = described.show_of(llama_offer(gemma, num_ctx=8192))
    assert shown["parameters"].split() == ["num_ctx", "8192"]


@pytest.mark.parametrize(
    ("metadata", "can"),
    [
        ({}, ["completion"]),
        ({described.TEMPLATE: "{{ messages }}"}, ["completion"]),
        ({described.TEMPLATE: "{% if tools %}{% endif %}<think>"}, ["completion", "tools", "thinking"]),
        ({"tokenizer.ggml.fim_pre_token_id": 3}, ["completion", "insert"]),
        ({"llama.pooling_type": 1, described.TEMPLATE: "tools"}, ["embedding"]),
    ],
)
def test_a_header_tells_what_a_model_can(tmp_path: Path, metadata: dict[str, Any], can: list[str]) -> None:
    head = {"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 1}
    path = tmp_path / "model.gguf"
    write_gguf(path, {**head, **metadata}, [("token_embd.weight", (64, 100), "F16")])
    assert described.show_of(llama_offer(path))["capabilities"] == can
    assert described.has_chat_template(llama_offer(path)) == (described.TEMPLATE in metadata)


def test_a_changed_file_is_read_again(tmp_path: Path, gemma: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gemma.read_bytes())
    first = described.tag_of(llama_offer(path))
    os.utime(path, ns=(1, 1))
    second = described.tag_of(llama_offer(path))
    assert first["digest"] == second["digest"]
    assert second["modified_at"] == "1970-01-01T00:00:00.000000001Z"


def test_a_file_that_is_gone_is_listed_without_a_size_and_not_shown(tmp_path: Path) -> None:
    offer = llama_offer(tmp_path / "gone.gguf")
    assert described.tag_of(offer)["size"] == 0
    assert described.has_chat_template(offer)
    with pytest.raises(Trouble) as caught:
        described.show_of(offer)
    assert caught.value.status == 502
    assert caught.value.remedy
