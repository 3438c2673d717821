"""Tensors of a model whose server lists none (Ollama before 0.6.1): a plain transformer of the same shape.

Only the size of the whole is known. The shapes follow from the metadata, and all bytes together are those of
the file, so that a plan is near; whoever uses it says that it is a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from narthex.engines.ollama.records import Details
from narthex.models.inspection import ArrayLength, TensorInfo
from narthex.models.layers import Metadata
from narthex.models.quants import MIXES, TENSOR_TYPES, TYPE_IDS, TensorType

_Shape = tuple[str, tuple[int, ...]]


def guessed_tensors(
    metadata: dict[str, Any], details: Details, file_bytes: int | None
) -> tuple[TensorInfo, ...]:
    """Every tensor that a plain transformer with these metadata has; empty where the metadata say too little.

    Bytes add up to ``file_bytes``, or, where that is not known, to what the quantisation takes.
    """
    architecture = str(metadata.get("general.architecture"))
    meta = Metadata(architecture, metadata)
    layers, width = meta.number("block_count") or 0, meta.number("embedding_length") or 0
    if not layers or not width:
        return ()
    shapes = [shape for layer in range(layers) for shape in _block(meta, layer, layers, width)]
    held = sum(map(_elements, shapes))
    total = metadata.get("general.parameter_count")
    rest = total - held if isinstance(total, int) else 0
    vocabulary = _vocabulary(meta) or max(rest // width, 1)
    shapes.append(("token_embd.weight", (width, vocabulary)))
    if rest >= 1.5 * width * vocabulary:  # else the embedding serves as output matrix too
        shapes.append(("output.weight", (width, vocabulary)))
    kind = _type(metadata, details)
    elements = sum(map(_elements, shapes))
    whole = file_bytes or elements * kind.nbytes // kind.block
    return tuple(
        TensorInfo(name, dims, kind.name, whole * _elements((name, dims)) // elements, 0)
        for name, dims in shapes
    )


def _block(meta: Metadata, layer: int, layers: int, width: int) -> Iterator[_Shape]:
    heads = _at(meta, "attention.head_count", layer, layers)
    kv_heads = _at(meta, "attention.head_count_kv", layer, layers) or heads
    default = width // heads if heads else 0
    key = meta.number("attention.key_length") or default
    value = meta.number("attention.value_length") or default
    at = f"blk.{layer}."
    yield f"{at}attn_norm.weight", (width,)
    if heads:
        yield f"{at}attn_q.weight", (width, heads * key)
        yield f"{at}attn_k.weight", (width, kv_heads * key)
        yield f"{at}attn_v.weight", (width, kv_heads * value)
        yield f"{at}attn_output.weight", (heads * value, width)
    yield f"{at}ffn_norm.weight", (width,)
    dense = _at(meta, "feed_forward_length", layer, layers)
    experts = meta.number("expert_count") or 0
    if experts:
        inner = meta.number("expert_feed_forward_length") or dense
        yield f"{at}ffn_gate_inp.weight", (width, experts)
        yield f"{at}ffn_gate_exps.weight", (width, inner, experts)
        yield f"{at}ffn_up_exps.weight", (width, inner, experts)
        yield f"{at}ffn_down_exps.weight", (inner, width, experts)
    elif dense:
        yield f"{at}ffn_gate.weight", (width, dense)
        yield f"{at}ffn_up.weight", (width, dense)
        yield f"{at}ffn_down.weight", (dense, width)


def _at(meta: Metadata, key: str, layer: int, layers: int) -> int:
    found = meta.numbers(key, layers)
    return found[layer] if found else 0


def _elements(shape: _Shape) -> int:
    count = 1
    for size in shape[1]:
        count *= size
    return count


def _vocabulary(meta: Metadata) -> int:
    tokens = meta.values.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayLength):
        return tokens.length
    return meta.number("vocab_size") or (len(tokens) if isinstance(tokens, tuple) else 0)


def _type(metadata: dict[str, Any], details: Details) -> TensorType:
    """The type that most weights of the mix have: ``Q4_K`` for ``Q4_K_M``."""
    mix = MIXES.get(metadata.get("general.file_type", -1)) or details.quantization_level.upper()
    for end in ("", "_S", "_M", "_L", "_MOE"):
        if mix.endswith(end) and (number := TYPE_IDS.get(mix.removesuffix(end))) is not None:
            return TENSOR_TYPES[number]
    return TENSOR_TYPES[TYPE_IDS["F16"]]
