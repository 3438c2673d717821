"""Files of Ollama's registry with names of their own plan as the same model under llama.cpp's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narthex.knobs import KnobValues
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.models.inspection import AttentionKind, Inspection
from narthex.testing.gguf_writer import Tensor, write_gguf

GPU = (Device(name="GPU0", kind="gpu", free_bytes=8 * 10**9), Device(name="host", kind="host"))
LAYERS = 4


def gpt_oss(architecture: str, names: dict[str, str], folder: Path) -> Inspection:
    """A small gpt-oss, its tensors renamed."""
    values: dict[str, Any] = {
        "block_count": LAYERS,
        "context_length": 131_072,
        "embedding_length": 512,
        "feed_forward_length": 512,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "attention.sliding_window": 128,
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 512,
    }
    block: dict[str, tuple[tuple[int, ...], str]] = {
        "attn_norm.weight": ((512,), "F32"),
        "post_attention_norm.weight": ((512,), "F32"),
        "attn_q.weight": ((512, 512), "Q8_0"),
        "attn_k.weight": ((512, 128), "Q8_0"),
        "attn_v.weight": ((512, 128), "Q8_0"),
        "attn_output.weight": ((512, 512), "Q8_0"),
        "attn_sinks.weight": ((8,), "F32"),
        "ffn_gate_inp.weight": ((512, 4), "F32"),
        "ffn_gate_exps.weight": ((512, 512, 4), "MXFP4"),
        "ffn_up_exps.weight": ((512, 512, 4), "MXFP4"),
        "ffn_down_exps.weight": ((512, 512, 4), "MXFP4"),
    }
    tensors: list[Tensor] = [
        ("token_embd.weight", (512, 1000), "Q8_0"),
        ("output_norm.weight", (512,), "F32"),
        ("output.weight", (512, 1000), "Q8_0"),
    ]
    tensors += [
        (f"blk.{layer}.{names.get(name, name)}", dims, kind)
        for layer in range(LAYERS)
        for name, (dims, kind) in block.items()
    ]
    metadata = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in values.items()}
    return inspect_file(write_gguf(folder / f"{architecture}.gguf", metadata, tensors))


def plans(inspection: Inspection) -> list[Any]:
    return [
        plan_memory(inspection, KnobValues(num_ctx=4096, gpu_layers=layers, batch=512), GPU).devices
        for layers in (0, 2, 5)
    ]


def test_a_gptoss_of_ollama_plans_as_a_gpt_oss(tmp_path: Path) -> None:
    ollamas = {
        "attn_output.weight": "attn_out.weight",
        "attn_sinks.weight": "attn_sinks",
        "post_attention_norm.weight": "ffn_norm.weight",
    }
    theirs, ours = gpt_oss("gptoss", ollamas, tmp_path), gpt_oss("gpt-oss", {}, tmp_path)
    assert theirs.architecture == "gpt-oss"
    assert theirs.layer_shapes == ours.layer_shapes
    assert {shape.attention for shape in theirs.layer_shapes} == {AttentionKind.FULL, AttentionKind.SLIDING}
    assert [tensor.name for tensor in theirs.tensors] == [tensor.name for tensor in ours.tensors]
    assert plans(theirs) == plans(ours)
    assert (theirs.ollamas_format, ours.ollamas_format) == (True, False)
    assert theirs.known_architecture


@pytest.mark.parametrize(
    ("theirs", "ours", "more"),
    [
        ("qwen25vl", "qwen2vl", {}),
        ("olmo3", "olmo2", {}),
        ("deepseekocr", "deepseek2-ocr", {}),
        ("nemotron_h_omni", "nemotron_h", {}),
        ("nemotron_h_omni", "nemotron_h_moe", {"expert_count": 8}),
    ],
)
def test_an_architecture_with_another_name_is_known(
    tmp_path: Path, theirs: str, ours: str, more: dict[str, int]
) -> None:
    values = {"block_count": 2, "embedding_length": 64, "context_length": 777, **more}
    metadata = {"general.architecture": theirs, **{f"{theirs}.{key}": value for key, value in values.items()}}
    found = inspect_file(write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (64, 10), "F16")]))
    assert (found.architecture, found.context_train, found.embedding_length) == (ours, 777, 64)
    assert found.ollamas_format


def test_latent_attention_is_given_the_rows_lengths(tmp_path: Path) -> None:
    values = {
        "block_count": 2,
        "embedding_length": 2048,
        "attention.head_count": 20,
        "attention.head_count_kv": 20,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.kv_lora_rank": 512,
        "rope.dimension_count": 64,
    }
    name = "glm4moelite"
    metadata = {"general.architecture": name, **{f"{name}.{key}": value for key, value in values.items()}}
    found = inspect_file(
        write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (2048, 10), "F16")])
    )
    shape = found.layer_shapes[0]
    assert (shape.attention, shape.kv_heads, shape.key_length) == (AttentionKind.LATENT, 1, 576)


def test_eyes_in_the_file_are_no_layers_but_take_their_place(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.context_length": 4096,
    }
    text: list[Tensor] = [("token_embd.weight", (64, 10), "F16")]
    eyes: list[Tensor] = [("v.blk.0.attn_q.weight", (1024, 1024), "F16"), ("mm.0.weight", (64, 64), "F16")]
    blind = inspect_file(write_gguf(tmp_path / "a.gguf", metadata, text))
    seeing = inspect_file(write_gguf(tmp_path / "b.gguf", metadata, [*text, *eyes]))
    size = 2 * (1024 * 1024 + 64 * 64)
    assert (blind.beside_bytes, seeing.beside_bytes) == (0, size)
    assert seeing.ollamas_format
    for layers in (0, 2):
        knobs = KnobValues(num_ctx=256, gpu_layers=layers)
        without, with_eyes = (plan_memory(model, knobs, GPU).devices[0] for model in (blind, seeing))
        assert with_eyes.model_bytes == without.model_bytes
        assert with_eyes.overhead_bytes == without.overhead_bytes + size


def test_a_header_of_llama_cpp_stays_as_it_is(gemma: Path) -> None:
    found = inspect_file(gemma)
    assert (found.ollamas_format, found.beside_bytes) == (False, 0)
