"""What each layer keeps from token to token, by architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from narthex.models.inspection import AttentionKind, Inspection

Inspect = Callable[..., Inspection]
LETTERS = {
    AttentionKind.FULL: "F",
    AttentionKind.SLIDING: "s",
    AttentionKind.LATENT: "L",
    AttentionKind.RECURRENT: "r",
    AttentionKind.NONE: ".",
}


def kinds(inspection: Inspection) -> str:
    """One letter a layer."""
    return "".join(LETTERS[shape.attention] for shape in inspection.layer_shapes)


WINDOW: dict[str, Any] = {"attention__sliding_window": 512}


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("gemma2", "sFsFsFsFsFsF"),
        ("gemma3", "sssssFsssssF"),
        ("gpt-oss", "sFsFsFsFsFsF"),
        ("cohere2", "sssFsssFsssF"),
        ("cohere2moe", "FsssFsssFsss"),
        ("llama4", "sssFsssFsssF"),
        ("olmo2", "sssFsssFsssF"),
        ("plamo3", "sssssssFssss"),
        ("smallthinker", "FsssFsssFsss"),
        ("exaone-moe", "sssFsssFsssF"),
    ],
)
def test_layers_slide_by_the_engines_own_pattern(
    inspect_shape: Inspect, architecture: str, expected: str
) -> None:
    assert kinds(inspect_shape(architecture, layers=12, **WINDOW)) == expected


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen2", "mistral3"])
def test_a_window_that_the_engine_ignores_is_ignored(inspect_shape: Inspect, architecture: str) -> None:
    assert kinds(inspect_shape(architecture, **WINDOW)) == "FFFF"


@pytest.mark.parametrize("architecture", ["gemma3", "olmo2", "plamo3", "smallthinker", "lfm2"])
def test_without_a_window_in_the_file_these_attend_to_everything(
    inspect_shape: Inspect, architecture: str
) -> None:
    assert kinds(inspect_shape(architecture)) == "FFFF"


@pytest.mark.parametrize(
    ("architecture", "named", "window"),
    [("gemma2", None, 4096), ("gemma2", 512, 512), ("llama4", None, 8192), ("llama4", 512, 8192)],
)
def test_the_window_is_the_one_the_engine_takes(
    inspect_shape: Inspect, architecture: str, named: int | None, window: int
) -> None:
    inspection = inspect_shape(architecture, attention__sliding_window=named)
    assert inspection.layer_shapes[0].window == window
    assert inspection.layer_shapes[3].window is None


def test_llama4_with_a_window_of_zero_has_none(inspect_shape: Inspect) -> None:
    assert kinds(inspect_shape("llama4", attention__sliding_window=0)) == "FFFF"


def test_only_the_largest_exaone4_slides(inspect_shape: Inspect) -> None:
    assert kinds(inspect_shape("exaone4", layers=30, **WINDOW)) == "F" * 30
    assert kinds(inspect_shape("exaone4", layers=64, **WINDOW)) == "sssF" * 16


def test_a_pattern_in_the_file_overrules_the_table(inspect_shape: Inspect) -> None:
    by_list = inspect_shape("gemma3", attention__sliding_window_pattern=[False, True, False, True], **WINDOW)
    by_period = inspect_shape("gemma3", attention__sliding_window_pattern=2, **WINDOW)
    assert kinds(by_list) == "FsFs"
    assert kinds(by_period) == "sFsF"


def test_a_missing_pattern_is_a_gap_and_counts_as_full(inspect_shape: Inspect) -> None:
    inspection = inspect_shape("mimo2", **WINDOW)
    assert kinds(inspection) == "FFFF"
    assert "does not say which layers" in inspection.gaps[0]


def test_sliding_layers_can_have_heads_of_their_own_length(inspect_shape: Inspect) -> None:
    inspection = inspect_shape(
        "gemma4",
        attention__key_length=512,
        attention__value_length=512,
        attention__key_length_swa=256,
        attention__value_length_swa=256,
        attention__sliding_window_pattern=[True, True, True, False],
        **WINDOW,
    )
    assert [shape.key_length for shape in inspection.layer_shapes] == [256, 256, 256, 512]
    assert [shape.value_length for shape in inspection.layer_shapes] == [256, 256, 256, 512]


def test_layers_that_read_an_earlier_ones_cache_keep_nothing(inspect_shape: Inspect) -> None:
    gemma4 = inspect_shape(
        "gemma4",
        layers=6,
        attention__shared_kv_layers=2,
        attention__sliding_window_pattern=[True, True, False] * 2,
        **WINDOW,
    )
    gemma3n = inspect_shape("gemma3n", layers=25, **WINDOW)
    assert kinds(gemma4) == "ssFs.."
    assert kinds(gemma3n) == "ssssF" * 4 + "....."


def test_head_length_is_embedding_by_heads_unless_the_file_tells(inspect_shape: Inspect) -> None:
    plain = inspect_shape("llama").layer_shapes[0]
    told = inspect_shape("llama", attention__key_length=128, attention__value_length=96).layer_shapes[0]
    assert (plain.key_length, plain.value_length, plain.kv_heads) == (64, 64, 4)
    assert (told.key_length, told.value_length) == (128, 96)


def test_kv_heads_default_to_the_heads(inspect_shape: Inspect) -> None:
    assert inspect_shape("llama", attention__head_count_kv=None).kv_heads == 16


def test_heads_can_differ_by_layer_and_a_layer_can_have_none(inspect_shape: Inspect) -> None:
    inspection = inspect_shape(
        "deci", attention__head_count=[16, 16, 8, 0], attention__head_count_kv=[4, 2, 1, 0]
    )
    assert [shape.kv_heads for shape in inspection.layer_shapes] == [4, 2, 1, 0]
    assert kinds(inspection) == "FFF."
    assert (inspection.heads, inspection.kv_heads) == (16, 4)


MLA = {
    "attention__head_count": 128,
    "attention__head_count_kv": 1,
    "attention__kv_lora_rank": 512,
    "attention__key_length": 576,
    "attention__value_length": 512,
    "attention__key_length_mla": 192,
    "attention__value_length_mla": 128,
}


def test_latent_attention_caches_one_row_and_no_values(inspect_shape: Inspect) -> None:
    shape = inspect_shape("deepseek2", **MLA).layer_shapes[0]
    assert shape.attention is AttentionKind.LATENT
    assert (shape.kv_heads, shape.key_length, shape.value_length) == (1, 576, 0)


def test_an_old_file_of_a_latent_model_is_run_uncompressed(inspect_shape: Inspect) -> None:
    old = MLA | {
        "attention__key_length_mla": None,
        "attention__value_length_mla": None,
        "attention__head_count_kv": 128,
        "attention__key_length": 192,
        "attention__value_length": 128,
    }
    shape = inspect_shape("deepseek2", **old).layer_shapes[0]
    assert shape.attention is AttentionKind.FULL
    assert (shape.kv_heads, shape.key_length, shape.value_length) == (128, 192, 128)


def test_a_sparse_attention_index_is_kept_beside_the_row(inspect_shape: Inspect) -> None:
    inspection = inspect_shape("deepseek32", attention__indexer__key_length=128, **MLA)
    assert inspection.layer_shapes[0].index_length == 128


def test_layers_that_only_guess_ahead_keep_nothing(inspect_shape: Inspect) -> None:
    inspection = inspect_shape("glm4moe", layers=5, nextn_predict_layers=1)
    assert kinds(inspection) == "FFFF."
    assert (inspection.layers, inspection.nextn_layers) == (5, 1)


SSM = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 2048,
    "ssm__state_size": 128,
    "ssm__group_count": 16,
    "ssm__time_step_rank": 32,
}
SSM_STATE = (3 * (2048 + 2 * 16 * 128) + 128 * 2048) * 4


@pytest.mark.parametrize(
    ("architecture", "metadata", "expected"),
    [
        ("mamba2", {"attention__head_count": 0, "attention__head_count_kv": 0}, "rrrrrrrr"),
        ("qwen3next", {}, "rrrFrrrF"),
        ("qwen35moe", {"full_attention_interval": 2}, "rFrFrFrF"),
        ("qwen35", {"attention__recurrent_layers": [True, False] * 4}, "rFrFrFrF"),
        ("jamba", {"attention__head_count_kv": [0, 0, 0, 4, 0, 0, 0, 4]}, "rrrFrrrF"),
        ("granitehybrid", {"attention__head_count_kv": [0, 4] * 4}, "rFrFrFrF"),
        (
            "nemotron_h",
            {
                "attention__head_count_kv": [0, 0, 0, 4, 0, 0, 0, 0],
                "feed_forward_length": [0, 64, 0, 0, 64, 0, 64, 0],
            },
            "r.rF.r.r",
        ),
    ],
)
def test_recurrent_layers_are_told_from_attending_ones(
    inspect_shape: Inspect, architecture: str, metadata: dict[str, Any], expected: str
) -> None:
    inspection = inspect_shape(architecture, layers=8, **(SSM | metadata))
    assert kinds(inspection) == expected
    states = {shape.state_bytes for shape in inspection.layer_shapes if shape.attention == "recurrent"}
    assert states == {SSM_STATE}


def test_a_layer_can_keep_both_a_cache_and_a_state(inspect_shape: Inspect) -> None:
    shape = inspect_shape("falcon-h1", **SSM).layer_shapes[0]
    assert shape.attention is AttentionKind.FULL
    assert shape.kv_heads == 4
    assert shape.state_bytes == SSM_STATE


def test_rwkv_keeps_shifted_tokens_and_a_state(inspect_shape: Inspect) -> None:
    shape = inspect_shape("rwkv7", wkv__head_size=64, attention__head_count=0).layer_shapes[0]
    assert shape.attention is AttentionKind.RECURRENT
    assert shape.state_bytes == (2 * 1024 + 1024 * 64) * 4


def test_a_short_convolution_keeps_its_taps(inspect_shape: Inspect) -> None:
    inspection = inspect_shape("lfm2", attention__head_count_kv=[0, 0, 4, 0], shortconv__l_cache=3)
    assert kinds(inspection) == "rrFr"
    assert inspection.layer_shapes[0].state_bytes == 2 * 1024 * 4


def test_delta_attention_keeps_a_square_a_head(inspect_shape: Inspect) -> None:
    metadata = MLA | {"attention__head_count": 32, "attention__head_count_kv": [0, 0, 0, 1]}
    inspection = inspect_shape("kimi-linear", ssm__conv_kernel=4, kda__head_dim=128, **metadata)
    assert kinds(inspection) == "rrrL"
    assert inspection.layer_shapes[0].state_bytes == (3 * 3 * 32 * 128 + 128 * 128 * 32) * 4


def test_lightning_attention_keeps_a_square_a_head(inspect_shape: Inspect) -> None:
    inspection = inspect_shape("minimax-01", layers=8)
    assert kinds(inspection) == "rrrrrrrF"
    assert inspection.layer_shapes[0].state_bytes == 64 * 64 * 16 * 4


def test_an_encoder_keeps_nothing(inspect_shape: Inspect) -> None:
    assert kinds(inspect_shape("bert")) == "...."


def test_an_unknown_architecture_is_read_from_its_tensors_and_said_to_be(inspect_shape: Inspect) -> None:
    tensors = (
        ("blk.0.attn_k.weight", (1024, 256), "F16"),
        ("blk.1.ssm_in.weight", (1024, 256), "F16"),
        ("blk.2.attn_k.weight", (1024, 256), "F16"),
        ("blk.2.ssm_in.weight", (1024, 256), "F16"),
    )
    inspection = inspect_shape("novel", layers=3, tensors=tensors, **SSM)
    assert kinds(inspection) == "FrF"
    assert not inspection.known_architecture
    assert "«novel»" in inspection.gaps[0]
    assert [bool(shape.state_bytes) for shape in inspection.layer_shapes] == [False, True, True]


def test_expert_weights_are_counted_apart(inspect_shape: Inspect) -> None:
    tensors = (
        ("blk.0.ffn_up_exps.weight", (1024, 32, 8), "Q8_0"),
        ("blk.0.ffn_gate_inp.weight", (1024, 8), "F32"),
        ("blk.0.ffn_up_shexp.weight", (1024, 32), "Q8_0"),
        ("blk.1.ffn_up.7.weight", (1024, 32), "Q8_0"),
    )
    inspection = inspect_shape("llama", layers=2, tensors=tensors, expert_count=8, expert_used_count=2)
    expert = 1024 * 32 // 32 * 34
    assert [shape.expert_bytes for shape in inspection.layer_shapes] == [8 * expert, expert]
    assert inspection.layer_shapes[0].weight_bytes == 9 * expert + 1024 * 8 * 4
    assert inspection.group_bytes["experts"] == 9 * expert
    assert inspection.expert_feed_forward_length == 32
