"""Golden facts of a real model and of the well-known shapes, read through ``inspect_file``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from narthex.errors import ModelFileError
from narthex.models.gguf import inspect_file
from narthex.models.inspection import AttentionKind, Inspection
from narthex.testing.gguf_writer import Typed, write_gguf

Inspect = Callable[..., Inspection]


def test_the_real_model_is_told_as_it_is(gemma: Path) -> None:
    model = inspect_file(gemma)
    assert (model.architecture, model.name, model.quantization) == ("gemma3", "Gemma 3 270m", "Q4_K_M")
    assert (model.layers, model.heads, model.kv_heads) == (18, 4, 1)
    assert (model.parameters, model.file_bytes) == (268_098_176, 253_113_024)
    assert (model.vocabulary, model.context_train) == (262_144, 32_768)
    assert (model.embedding_length, model.feed_forward_length) == (640, 2048)
    assert (model.experts, model.projector, model.gaps) == (0, None, ())
    full = [at for at, shape in enumerate(model.layer_shapes) if shape.attention is AttentionKind.FULL]
    assert full == [5, 11, 17]
    assert {shape.window for shape in model.layer_shapes} == {512, None}
    assert {(shape.key_length, shape.value_length) for shape in model.layer_shapes} == {(256, 256)}


def test_the_real_models_bytes_add_up(gemma: Path) -> None:
    model = inspect_file(gemma)
    stored = sum(tensor.nbytes for tensor in model.tensors)
    assert sum(model.group_bytes.values()) == sum(model.quantization_bytes.values()) == stored
    assert model.file_bytes - stored < 6_600_000  # the header, most of it vocabulary
    layers = sum(shape.weight_bytes for shape in model.layer_shapes)
    assert stored == layers + model.group_bytes["embedding"] + 640 * 4  # and the norm of the output


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("deepseek-r1-32b", ("qwen2", 64, 32_763_876_352, 152_064, 0, 8)),
        ("qwen3-30b-a3b", ("qwen3moe", 48, 30_532_122_624, 151_936, 128, 4)),
        ("mistral-nemo-12b", ("llama", 40, 12_247_782_400, 131_072, 0, 8)),
        ("mixtral-8x7b", ("llama", 32, 46_702_792_704, 32_000, 8, 8)),
        ("gemma3-27b", ("gemma3", 62, 27_009_346_304, 262_208, 0, 16)),
    ],
)
def test_a_full_size_shape_is_read_from_its_header(
    synth: ModuleType, tmp_path: Path, name: str, facts: tuple[Any, ...]
) -> None:
    path = tmp_path / "model.gguf"
    size = synth.write(synth.SHAPES[name], name, path, header_only=True)
    model = inspect_file(path)
    assert (
        model.architecture,
        model.layers,
        model.parameters,
        model.vocabulary,
        model.experts,
        model.kv_heads,
    ) == facts
    assert model.file_bytes == size
    assert model.quantization == "Q4_K_M"
    tensors = list(synth.tensors(synth.SHAPES[name]))
    assert [tensor.nbytes for tensor in model.tensors] == [
        synth.nbytes(dims, kind) for _, dims, kind in tensors
    ]


def test_experts_take_most_of_a_mixture(synth: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    synth.write(synth.SHAPES["qwen3-30b-a3b"], "qwen3-30b-a3b", path, header_only=True)
    model = inspect_file(path)
    assert (model.experts_used, model.expert_feed_forward_length) == (8, 768)
    assert model.group_bytes["experts"] / sum(model.group_bytes.values()) > 0.9
    assert sum(shape.expert_bytes for shape in model.layer_shapes) == model.group_bytes["experts"]


def test_metadata_stays_small(gemma: Path) -> None:
    assert len(repr(inspect_file(gemma).metadata)) < 20_000


def test_two_names_of_one_file_are_one_model(gemma: Path, tmp_path: Path) -> None:
    link = tmp_path / "other.gguf"
    link.symlink_to(gemma)
    assert inspect_file(link).identity == inspect_file(gemma).identity


def test_a_file_without_a_known_mix_is_called_by_its_commonest_type(inspect_shape: Inspect) -> None:
    assert inspect_shape("llama").quantization == "Q8_0"


def test_the_vocabulary_is_counted_where_it_stands(inspect_shape: Inspect) -> None:
    assert inspect_shape("llama").vocabulary == 64  # rows of the embedding
    assert inspect_shape("llama", vocab_size=99).vocabulary == 99


def test_a_context_that_is_not_told_is_a_gap(inspect_shape: Inspect) -> None:
    model = inspect_shape("llama", context_length=None)
    assert model.context_train == 0
    assert "context" in model.gaps[0]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "does not say what architecture"),
        ({"general.architecture": 5}, "does not say what architecture"),
        ({"general.architecture": "clip"}, "is a projector"),
        ({"general.architecture": "llama"}, "«llama.block_count» is missing"),
        ({"general.architecture": "llama", "llama.block_count": 2**31 - 1}, "claims 2,147,483,647 layers"),
        ({"general.architecture": "llama", "llama.block_count": Typed("f32", 2.0)}, "is missing"),
        ({"general.architecture": "llama", "llama.block_count": 2}, "only a vocabulary"),
    ],
)
def test_a_file_that_is_no_language_model_is_refused(
    tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelFileError, match=words):
        inspect_file(write_gguf(tmp_path / "a.gguf", metadata))
