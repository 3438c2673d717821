"""Shapes whose layers keep a state, all of them or some."""

from __future__ import annotations

from narthex.testing.gguf_writer import Typed
from narthex.testing.shapes.pieces import (
    WORDS,
    Shape,
    attention,
    dense,
    ends,
    experts,
    f32,
    mamba2,
    metadata,
    weight,
)


def mamba() -> Shape:
    """A state and nothing else."""
    width, inner, state, rank = 2048, 4096, 16, 128
    tensors = ends(width)
    for layer in range(8):
        block = f"blk.{layer}."
        tensors += [weight(f"{block}attn_norm", width), weight(f"{block}ssm_in", width, 2 * inner)]
        tensors += [f32(f"{block}ssm_conv1d.weight", 4, inner), f32(f"{block}ssm_conv1d.bias", inner)]
        tensors += [weight(f"{block}ssm_x", inner, rank + 2 * state), weight(f"{block}ssm_dt", rank, inner)]
        tensors += [f32(f"{block}ssm_dt.bias", inner), f32(f"{block}ssm_a", state, inner)]
        tensors += [f32(f"{block}ssm_d", inner), weight(f"{block}ssm_out", inner, width)]
    return metadata(
        "mamba",
        8,
        width,
        feed_forward_length=0,
        attention__head_count=0,
        ssm__conv_kernel=4,
        ssm__inner_size=inner,
        ssm__state_size=state,
        ssm__time_step_rank=rank,
    ), tensors


def rwkv7() -> Shape:
    """Shifted tokens and a state of 64 elements a channel."""
    width, inner = 2048, 8192
    tensors = [*ends(width), f32("output_norm.bias", width)]
    tensors += [f32("token_embd_norm.weight", width), f32("token_embd_norm.bias", width)]
    vectors = ("w0", "a0", "v0", "k_k", "k_a", "r_k")
    for layer in range(6):
        block = f"blk.{layer}."
        norms = ("attn_norm", "attn_norm_2", "time_mix_ln")
        tensors += [f32(f"{block}{name}.{part}", width) for name in norms for part in ("weight", "bias")]
        tensors += [f32(f"{block}time_mix_{name}.weight", width) for name in vectors]
        for name, rank in {"w": 96, "a": 96, "v": 64 if layer else 96, "g": 256}.items():
            tensors += [weight(f"{block}time_mix_{name}1", width, rank)]
            tensors += [weight(f"{block}time_mix_{name}2", rank, width)]
        tensors += [f32(f"{block}time_mix_lerp_fused.weight", width, 1, 1, 6)]
        tensors += [f32(f"{block}channel_mix_lerp_k.weight", width, 1, 1)]
        squares = ("key", "value", "receptance", "output")
        tensors += [weight(f"{block}time_mix_{name}", width, width) for name in squares]
        tensors += [weight(f"{block}channel_mix_key", width, inner)]
        tensors += [weight(f"{block}channel_mix_value", inner, width)]
    return metadata(
        "rwkv7",
        6,
        width,
        feed_forward_length=inner,
        attention__head_count=0,
        wkv__head_size=64,
        attention__decay_lora_rank=96,
        attention__iclr_lora_rank=96,
        attention__value_residual_mix_lora_rank=64,
        attention__gate_lora_rank=256,
    ), tensors


def lfm2() -> Shape:
    """Short convolutions, and attention where the file gives a layer KV heads."""
    width, kv_heads = 2048, [0, 0, 8, 0, 0, 8, 0, 8]
    tensors = [weight("token_embd", width, WORDS), weight("token_embd_norm", width)]
    for layer, count in enumerate(kv_heads):
        block = f"blk.{layer}."
        tensors += dense(block, width, 4096)
        if count:
            tensors += attention(block, width, 32, count, 64, norms=True)
            continue
        tensors += [weight(f"{block}attn_norm", width), f32(f"{block}shortconv.conv.weight", 3, width)]
        tensors += [weight(f"{block}shortconv.in_proj", width, 3 * width)]
        tensors += [weight(f"{block}shortconv.out_proj", width, width)]
    return metadata(
        "lfm2",
        8,
        width,
        feed_forward_length=4096,
        attention__head_count=32,
        attention__head_count_kv=Typed("i32", kv_heads),
        shortconv__l_cache=3,
    ), tensors


def falcon_h1() -> Shape:
    """A cache and a state in every layer."""
    width = 2048
    tensors = ends(width)
    for layer in range(6):
        block = f"blk.{layer}."
        tensors += [f32(f"{block}ffn_norm", width), *dense(block, width, 4096)[1:]]
        tensors += attention(block, width, 16, 2, 128)
        tensors += mamba2(block, width, inner=3072, state=256, groups=1, heads=24)
    return metadata(
        "falcon-h1",
        6,
        width,
        feed_forward_length=4096,
        attention__head_count=16,
        attention__head_count_kv=2,
        attention__key_length=128,
        attention__value_length=128,
        ssm__conv_kernel=4,
        ssm__inner_size=3072,
        ssm__state_size=256,
        ssm__time_step_rank=24,
        ssm__group_count=1,
    ), tensors


def nemotron_h() -> Shape:
    """A layer is one of three: a state, attention, or feed-forward alone."""
    width, kv_heads, inner = 2048, [0, 0, 8, 0, 0, 8], [0, 4096, 0, 0, 4096, 0]
    tensors = ends(width)
    for layer, count in enumerate(kv_heads):
        block = f"blk.{layer}."
        if count:
            tensors += attention(block, width, 32, count, 128)
            continue
        tensors += [weight(f"{block}attn_norm", width)]
        if size := inner[layer]:
            tensors += [weight(f"{block}ffn_up", width, size), weight(f"{block}ffn_down", size, width)]
        else:
            tensors += mamba2(block, width, inner=4096, state=128, groups=8, heads=64)
    return metadata(
        "nemotron_h",
        6,
        width,
        feed_forward_length=Typed("i32", inner),
        attention__head_count=32,
        attention__head_count_kv=Typed("i32", kv_heads),
        attention__key_length=128,
        attention__value_length=128,
        ssm__conv_kernel=4,
        ssm__inner_size=4096,
        ssm__state_size=128,
        ssm__time_step_rank=64,
        ssm__group_count=8,
    ), tensors


def qwen3next() -> Shape:
    """A mixture of experts; every fourth layer attends, the others keep a state."""
    width, length, state, groups, heads = 2048, 256, 128, 16, 32
    keys, values = state * groups, state * heads
    tensors = ends(width)
    for layer in range(8):
        block = f"blk.{layer}."
        tensors += [weight(f"{block}post_attention_norm", width)]
        if layer % 4 == 3:
            gated = attention(block, width, 16, 2, length, norms=True)
            gated[1] = weight(f"{block}attn_q", width, 2 * 16 * length)  # with its gate
            tensors += gated
        else:
            tensors += [weight(f"{block}attn_norm", width), weight(f"{block}attn_gate", width, values)]
            tensors += [weight(f"{block}attn_qkv", width, 2 * keys + values)]
            tensors += [f32(f"{block}ssm_conv1d.weight", 4, 2 * keys + values)]
            tensors += [f32(f"{block}ssm_dt.bias", heads), f32(f"{block}ssm_a", heads)]
            tensors += [weight(f"{block}ssm_ba", width, 2 * heads), f32(f"{block}ssm_norm.weight", state)]
            tensors += [weight(f"{block}ssm_out", values, width)]
        tensors += [*experts(block, width, 512, 8), f32(f"{block}ffn_gate_inp_shexp.weight", width)]
        tensors += [
            weight(f"{block}ffn_gate_shexp", width, 512),
            weight(f"{block}ffn_up_shexp", width, 512),
        ]
        tensors += [weight(f"{block}ffn_down_shexp", 512, width)]
    return metadata(
        "qwen3next",
        8,
        width,
        feed_forward_length=512,
        expert_feed_forward_length=512,
        expert_shared_feed_forward_length=512,
        expert_count=8,
        expert_used_count=2,
        rope__dimension_count=64,
        attention__head_count=16,
        attention__head_count_kv=2,
        attention__key_length=length,
        attention__value_length=length,
        ssm__conv_kernel=4,
        ssm__inner_size=values,
        ssm__state_size=state,
        ssm__time_step_rank=heads,
        ssm__group_count=groups,
    ), tensors
