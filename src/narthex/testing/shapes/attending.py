"""Shapes whose layers keep rows: over a window, shared, latent, indexed."""

from __future__ import annotations

from narthex.testing.shapes.pieces import WORDS, Shape, attention, dense, ends, experts, f32, metadata, weight


def gemma2() -> Shape:
    """Every second layer slides over 4,096 tokens."""
    tensors = ends(2048, tied=True)
    for layer in range(6):
        block = f"blk.{layer}."
        tensors += dense(block, 2048, 4096) + attention(block, 2048, 8, 4, 256)
        tensors += [weight(f"{block}post_attention_norm", 2048), weight(f"{block}post_ffw_norm", 2048)]
    heads = {"attention__head_count": 8, "attention__head_count_kv": 4}
    lengths = {"attention__key_length": 256, "attention__value_length": 256}
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return metadata(
        "gemma2",
        6,
        2048,
        feed_forward_length=4096,
        attention__sliding_window=4096,
        **heads,
        **lengths,
        **caps,
    ), tensors


def cohere2() -> Shape:
    """Three of four layers slide."""
    tensors = ends(2048, tied=True)
    for layer in range(8):
        block = f"blk.{layer}."
        tensors += dense(block, 2048, 4096)[1:] + attention(block, 2048, 16, 4, 128)
    return metadata(
        "cohere2",
        8,
        2048,
        feed_forward_length=4096,
        attention__head_count=16,
        attention__head_count_kv=4,
        attention__key_length=128,
        attention__value_length=128,
        attention__sliding_window=4096,
        rope__dimension_count=128,
        logit_scale=0.25,
    ), tensors


def gpt_oss() -> Shape:
    """A mixture of experts, every second layer over 128 tokens only."""
    tensors = ends(1024)
    for layer in range(8):
        block = f"blk.{layer}."
        tensors += attention(block, 1024, 16, 4, 64) + experts(block, 1024, 1024, 8)
        tensors += [weight(f"{block}post_attention_norm", 1024), f32(f"{block}attn_sinks.weight", 16)]
        biases = {"attn_q": 1024, "attn_k": 256, "attn_v": 256, "attn_output": 1024, "ffn_gate_inp": 8}
        tensors += [f32(f"{block}{name}.bias", size) for name, size in biases.items()]
        names = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
        tensors += [f32(f"{block}{name}.bias", 1024, 8) for name in names]
    return metadata(
        "gpt-oss",
        8,
        1024,
        feed_forward_length=1024,
        expert_feed_forward_length=1024,
        expert_count=8,
        expert_used_count=2,
        attention__head_count=16,
        attention__head_count_kv=4,
        attention__key_length=64,
        attention__value_length=64,
        attention__sliding_window=128,
    ), tensors


def gemma3n() -> Shape:
    """Layers from the 20th on read the cache of earlier ones."""
    width, layers, side = 2048, 30, 256
    tensors = ends(width, tied=True)
    tensors += [weight("altup_proj", width, width, 3), weight("altup_unembd_proj", width, width, 3)]
    tensors += [weight("per_layer_token_embd", side * layers, WORDS)]
    tensors += [weight("per_layer_model_proj", width, side * layers), weight("per_layer_proj_norm", side)]
    norms = ("post_attention_norm", "post_ffw_norm", "post_norm", "altup_router_norm", "laurel_post_norm")
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors += dense(block, width, 4096) + attention(block, width, 8, 2, 256, norms=True)
        tensors += [weight(f"{block}{name}", width) for name in (*norms, "altup_correct_scale")]
        tensors += [weight(f"{block}inp_gate", width, side), weight(f"{block}proj", side, width)]
        tensors += [f32(f"{block}altup_correct_coef.weight", 4, 4)]
        tensors += [
            f32(f"{block}altup_predict_coef.weight", 4, 16),
            weight(f"{block}altup_router", width, 4),
        ]
        tensors += [weight(f"{block}laurel_l", width, 64), weight(f"{block}laurel_r", 64, width)]
    return metadata(
        "gemma3n",
        layers,
        width,
        feed_forward_length=4096,
        embedding_length_per_layer_input=side,
        attention__head_count=8,
        attention__head_count_kv=2,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=512,
    ), tensors


def deepseek2(architecture: str = "deepseek2") -> Shape:
    """Latent attention: one compressed row of 512 + 64 elements a token."""
    width, layers, heads, rank, rope, plain, value = 2048, 6, 16, 512, 64, 128, 128
    tensors = ends(width)
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors += dense(block, width, 4096)
        tensors += [weight(f"{block}attn_norm", width), weight(f"{block}attn_q_a", width, 256)]
        tensors += [weight(f"{block}attn_q_a_norm", 256), weight(f"{block}attn_kv_a_norm", rank)]
        tensors += [weight(f"{block}attn_q_b", 256, heads * (plain + rope))]
        tensors += [weight(f"{block}attn_kv_a_mqa", width, rank + rope)]
        tensors += [
            weight(f"{block}attn_k_b", plain, rank, heads),
            weight(f"{block}attn_v_b", rank, value, heads),
        ]
        tensors += [weight(f"{block}attn_output", heads * value, width)]
    return metadata(
        architecture,
        layers,
        width,
        feed_forward_length=4096,
        leading_dense_block_count=layers,
        expert_count=4,
        expert_used_count=2,
        expert_shared_count=1,
        expert_gating_func=2,
        expert_feed_forward_length=512,
        rope__dimension_count=rope,
        attention__head_count=heads,
        attention__head_count_kv=1,
        attention__q_lora_rank=256,
        attention__kv_lora_rank=rank,
        attention__key_length=rank + rope,
        attention__value_length=rank,
        attention__key_length_mla=plain + rope,
        attention__value_length_mla=value,
    ), tensors


def deepseek32() -> Shape:
    """Latent attention with an index of 128 elements a token beside the row."""
    values, tensors = deepseek2("deepseek32")
    index = {"head_count": 64, "key_length": 128, "top_k": 2048}
    values |= {f"deepseek32.attention.indexer.{key}": size for key, size in index.items()}
    for layer in range(6):
        block = f"blk.{layer}.indexer."
        tensors += [f32(f"{block}k_norm.weight", 128), f32(f"{block}k_norm.bias", 128)]
        tensors += [weight(f"{block}proj", 2048, 64), weight(f"{block}attn_k", 2048, 128)]
        tensors += [weight(f"{block}attn_q_b", 256, 64 * 128)]
    return values, tensors
