"""Tensors of a server that lists none: shapes from the metadata, bytes from the whole."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.engines.ollama.guessed import guessed_tensors
from narthex.engines.ollama.records import Details
from narthex.models.inspection import ArrayLength

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 2,
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.vocab_size": 1000,
}
BLOCK = 256 + 256 * 256 + 2 * 256 * 128 + 256 * 256 + 256 + 3 * 256 * 512


def names(metadata: dict[str, Any], size: int | None = None, mix: str = "") -> dict[str, int]:
    found = guessed_tensors(metadata, Details(quantization_level=mix), size)
    return {tensor.name: tensor.nbytes for tensor in found}


def test_a_plain_transformer_has_its_usual_tensors() -> None:
    found = names({**LLAMA, "general.parameter_count": 2 * BLOCK + 2 * 256_000})
    assert {"token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"} <= set(
        found
    )


def test_an_embedding_that_is_used_twice_is_held_once() -> None:
    assert "output.weight" not in names({**LLAMA, "general.parameter_count": 2 * BLOCK + 256_000})


def test_bytes_add_up_to_those_of_the_file() -> None:
    assert sum(names(LLAMA, 1_000_000).values()) == pytest.approx(1_000_000, abs=40)


def test_without_a_size_the_quantisation_tells() -> None:
    elements = 2 * BLOCK + 256_000
    assert sum(names(LLAMA).values()) == pytest.approx(elements * 18 / 32, rel=0.001)


@pytest.mark.parametrize(("mix", "bits"), [("Q4_K_M", 4.5), ("Q8_0", 8.5), ("F16", 16), ("unknown", 16)])
def test_the_name_of_the_mix_is_understood(mix: str, bits: float) -> None:
    metadata = {key: value for key, value in LLAMA.items() if key != "general.file_type"}
    elements = 2 * BLOCK + 256_000
    assert sum(names(metadata, mix=mix).values()) == pytest.approx(elements * bits / 8, rel=0.001)


def test_experts_are_stacked() -> None:
    more = {"llama.expert_count": 8, "llama.expert_feed_forward_length": 128}
    (up,) = [
        tensor
        for tensor in guessed_tensors({**LLAMA, **more}, Details(), None)
        if tensor.name == "blk.0.ffn_up_exps.weight"
    ]
    assert up.dims == (256, 128, 8)


def test_the_vocabulary_may_come_as_a_length() -> None:
    tokens = {"tokenizer.ggml.tokens": ArrayLength(3000, "string")}
    (embedding,) = [
        tensor
        for tensor in guessed_tensors({**LLAMA, **tokens}, Details(), None)
        if tensor.name == "token_embd.weight"
    ]
    assert embedding.dims == (256, 3000)


def test_metadata_that_say_too_little_give_nothing() -> None:
    assert guessed_tensors({"general.architecture": "llama"}, Details(), 5) == ()
