"""What the shapes are put together from: metadata and the tensors of one part of a layer."""

from __future__ import annotations

from typing import Any

from narthex.testing.gguf_writer import Tensor, Typed

WORDS = 1000  # of vocabulary

Shape = tuple[dict[str, Any], list[Tensor]]


def metadata(architecture: str, layers: int, width: int, **values: Any) -> dict[str, Any]:
    """Keys of the architecture, with ``__`` for a dot, and a small vocabulary."""
    own = {
        "block_count": layers,
        "context_length": 131_072,
        "embedding_length": width,
        "vocab_size": WORDS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-5,
    }
    own |= {key.replace("__", "."): value for key, value in values.items()}
    return {
        "general.architecture": architecture,
        "general.file_type": 1,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(WORDS - 3))],
        "tokenizer.ggml.scores": [0.0] * WORDS,
        "tokenizer.ggml.token_type": Typed("i32", [1] * WORDS),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def weight(name: str, *dims: int) -> Tensor:
    """A matrix in F16, a vector in F32."""
    return f"{name}.weight", dims, "F16" if len(dims) > 1 else "F32"


def f32(name: str, *dims: int) -> Tensor:
    """A tensor that engines want in F32, with its full name."""
    return name, dims, "F32"


def ends(width: int, tied: bool = False) -> list[Tensor]:
    """What comes before and after the layers."""
    output = [] if tied else [weight("output", width, WORDS)]
    return [weight("token_embd", width, WORDS), weight("output_norm", width), *output]


def dense(block: str, width: int, inner: int) -> list[Tensor]:
    """A gated feed-forward part."""
    return [
        weight(f"{block}ffn_norm", width),
        weight(f"{block}ffn_gate", width, inner),
        weight(f"{block}ffn_up", width, inner),
        weight(f"{block}ffn_down", inner, width),
    ]


def experts(block: str, width: int, inner: int, count: int) -> list[Tensor]:
    """Routed experts, stacked."""
    return [
        weight(f"{block}ffn_gate_inp", width, count),
        weight(f"{block}ffn_gate_exps", width, inner, count),
        weight(f"{block}ffn_up_exps", width, inner, count),
        weight(f"{block}ffn_down_exps", inner, width, count),
    ]


def attention(
    block: str, width: int, heads: int, kv_heads: int, length: int, *, norms: bool = False
) -> list[Tensor]:
    """Attention with grouped heads."""
    extra = [weight(f"{block}attn_q_norm", length), weight(f"{block}attn_k_norm", length)] if norms else []
    return [
        weight(f"{block}attn_norm", width),
        weight(f"{block}attn_q", width, heads * length),
        weight(f"{block}attn_k", width, kv_heads * length),
        weight(f"{block}attn_v", width, kv_heads * length),
        weight(f"{block}attn_output", heads * length, width),
        *extra,
    ]


def mamba2(block: str, width: int, *, inner: int, state: int, groups: int, heads: int) -> list[Tensor]:
    """A state-space mixer of the second kind."""
    channels = inner + 2 * groups * state
    return [
        weight(f"{block}ssm_in", width, inner + channels + heads),
        f32(f"{block}ssm_conv1d.weight", 4, channels),
        f32(f"{block}ssm_conv1d.bias", channels),
        f32(f"{block}ssm_dt.bias", heads),
        f32(f"{block}ssm_a", 1, heads),
        f32(f"{block}ssm_d", 1, heads),
        f32(f"{block}ssm_norm.weight", inner // groups, groups),
        weight(f"{block}ssm_out", inner, width),
    ]
