"""``layer_shapes``: what each layer keeps from token to token, from metadata, tensors and the known facts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from narthex.models import architectures
from narthex.models.inspection import AttentionKind, LayerShape, TensorInfo

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"ffn_\w+_(?:ch)?exps\b|ffn_(?:gate|up|down)\.\d+\.")
_STATE = re.compile(r"ssm_|time_mix|shortconv")
_CACHE = re.compile(r"attn_(?:k|v|qkv|k_b|kv_a_mqa|kv_b)\.")
_UNKNOWN = (
    "What the engine keeps of the context for «{}» is not exactly known here: layers are judged by the names "
    "of their tensors and taken as full attention where in doubt, which can be too much."
)
_TOO_LARGE = 2**31  # engines read these as 32-bit numbers
_F32 = 4  # bytes: engines keep states unquantised


class Metadata:
    """The ``{architecture}.…`` keys, by type: a value of another type counts as absent."""

    def __init__(self, architecture: str, values: dict[str, Any]) -> None:
        self.architecture, self.values = architecture, values

    def number(self, key: str) -> int | None:
        """A whole number from zero up; a size that no model has counts as absent."""
        value = self.values.get(f"{self.architecture}.{key}")
        return value if type(value) is int and 0 <= value < _TOO_LARGE else None

    def numbers(self, key: str, count: int) -> list[int] | None:
        """One whole number a layer: a list in the file, or one number that holds for all."""
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            if len(value) < count or not all(type(item) is int and 0 <= item < _TOO_LARGE for item in value):
                return None
            return list(value[:count])
        single = self.number(key)
        return None if single is None else [single] * count

    def flags(self, key: str, count: int) -> list[bool] | None:
        """A list of yes and no, one a layer; None where the file has no list."""
        value = self.values.get(f"{self.architecture}.{key}")
        return (
            [bool(item) for item in value[:count]]
            if isinstance(value, tuple) and len(value) >= count
            else None
        )


def is_expert(name: str) -> bool:
    """True for the weights of routed experts, stacked (``ffn_up_exps``) or one by one (``ffn_up.3``)."""
    return _EXPERTS.search(name) is not None


def layer_shapes(
    meta: Metadata, layers: int, tensors: Iterable[TensorInfo]
) -> tuple[tuple[LayerShape, ...], tuple[str, ...]]:
    """One shape a layer, and what could not be known about them, in sentences."""
    blocks = _Blocks(layers, tensors)
    heads = meta.numbers("attention.head_count", layers) or [0] * layers
    kv_heads = meta.numbers("attention.head_count_kv", layers) or heads
    trunk = layers - min(meta.number("nextn_predict_layers") or 0, layers)
    shared_from = _shared_cache_from(meta, layers)
    windows, gaps = _windows(meta, trunk)
    recurrent = _recurrent(meta, layers, trunk, kv_heads, blocks)
    attends = _attends(meta, kv_heads, recurrent, blocks)
    state_bytes = _state_bytes(meta, heads)
    shapes = []
    for layer in range(layers):
        weights = {"weight_bytes": blocks.weight_bytes[layer], "expert_bytes": blocks.expert_bytes[layer]}
        kept = layer < trunk and layer < shared_from
        state = state_bytes if kept and recurrent[layer] else 0
        if kept and attends[layer] and kv_heads[layer]:
            window = windows[layer]
            key, value, latent = _row(meta, heads, window is not None)
            shapes.append(
                LayerShape(
                    attention=_kind(window, latent),
                    heads=heads[layer],
                    kv_heads=kv_heads[layer],
                    key_length=key,
                    value_length=value,
                    window=window,
                    state_bytes=state,
                    index_length=_index_length(meta, layer, layers),
                    **weights,
                )
            )
        else:
            kind = AttentionKind.RECURRENT if kept and recurrent[layer] else AttentionKind.NONE
            shapes.append(LayerShape(attention=kind, heads=heads[layer], state_bytes=state, **weights))
    if meta.architecture not in architectures.KNOWN:
        gaps.insert(0, _UNKNOWN.format(meta.architecture))
    return tuple(shapes), tuple(gaps)


def _kind(window: int | None, latent: bool) -> AttentionKind:
    if window is not None:
        return AttentionKind.SLIDING
    return AttentionKind.LATENT if latent else AttentionKind.FULL


class _Blocks:
    """What the tensor table says about each layer."""

    def __init__(self, layers: int, tensors: Iterable[TensorInfo]) -> None:
        self.weight_bytes, self.expert_bytes = [0] * layers, [0] * layers
        self.state, self.cache = [False] * layers, [False] * layers
        for tensor in tensors:
            found = _BLOCK.match(tensor.name)
            if not found or len(found[1]) > 4 or (layer := int(found[1])) >= layers:
                continue
            rest = found[2]
            self.weight_bytes[layer] += tensor.nbytes
            if is_expert(rest):
                self.expert_bytes[layer] += tensor.nbytes
            elif _STATE.match(rest):
                self.state[layer] = True
            elif _CACHE.match(rest):
                self.cache[layer] = True


def _shared_cache_from(meta: Metadata, layers: int) -> int:
    shared = meta.number("attention.shared_kv_layers")
    if shared is not None and meta.architecture not in architectures.SHARED_CACHE_FROM:
        return max(layers - shared, 0)
    return architectures.SHARED_CACHE_FROM.get(meta.architecture, layers)


def _windows(meta: Metadata, layers: int) -> tuple[list[int | None], list[str]]:
    """The window of each layer in tokens, None for full attention (``llama_hparams::set_swa_pattern``)."""
    full: list[int | None] = [None] * layers
    named = meta.number("attention.sliding_window")
    fact = architectures.SLIDING.get(meta.architecture)
    if meta.architecture == "exaone4" and layers != 64:
        return full, []  # only the 32B of this family slides
    if fact is None:
        return full, []
    window = fact.window if named is None or (fact.fixed and named) else named
    if not window:
        return full, []
    if meta.architecture == "smallthinker":
        window = 4096  # the engine takes no other
    flags = meta.flags("attention.sliding_window_pattern", layers)
    if flags is None:
        period = fact.period
        if period is not None:
            period = meta.number("attention.sliding_window_pattern") or period
        if period is None:
            return full, ["The file does not say which layers have a sliding window: all are taken as full."]
        full_at = 0 if fact.dense_first else period - 1
        flags = [not period or layer % period != full_at for layer in range(layers)]
    return [window if slides else None for slides in flags], []


def _recurrent(meta: Metadata, layers: int, trunk: int, kv_heads: list[int], blocks: _Blocks) -> list[bool]:
    name = meta.architecture
    if name in architectures.RECURRENT or name in architectures.RECURRENT_AND_ATTENTION:
        return [True] * layers
    if name in architectures.RECURRENT_BY_INTERVAL:
        interval = meta.number("full_attention_interval") or architectures.RECURRENT_BY_INTERVAL[name]
        by_interval = [layer < trunk and (layer + 1) % interval != 0 for layer in range(layers)]
        return meta.flags("attention.recurrent_layers", layers) or by_interval
    if name in architectures.RECURRENT_BY_HEADS:
        dense = meta.numbers("feed_forward_length", layers) if name.startswith("nemotron_h") else None
        return [not count and not (dense and dense[layer]) for layer, count in enumerate(kv_heads)]
    if name in architectures.KNOWN:
        return [False] * layers
    return blocks.state


def _attends(meta: Metadata, kv_heads: list[int], recurrent: list[bool], blocks: _Blocks) -> list[bool]:
    name = meta.architecture
    if name in architectures.WITHOUT_CACHE or name in architectures.RECURRENT:
        return [False] * len(kv_heads)
    if name in architectures.RECURRENT_AND_ATTENTION:
        return [True] * len(kv_heads)
    if name.startswith("nemotron_h"):  # a layer with a feed-forward part has nothing else
        dense = meta.numbers("feed_forward_length", len(kv_heads)) or [0] * len(kv_heads)
        return [not state and not dense[layer] for layer, state in enumerate(recurrent)]
    if name in architectures.KNOWN:
        return [not state for state in recurrent]
    return [blocks.cache[layer] or not recurrent[layer] for layer in range(len(kv_heads))]


def _row(meta: Metadata, heads: list[int], slides: bool) -> tuple[int, int, bool]:
    """Elements a KV head of the cached key and value, and whether the key is a latent row.

    With latent attention the engine caches the compressed row as K and takes V as a view of it
    (``llama_kv_cache``: ``has_v = !is_mla``); files without the ``_mla`` lengths are run uncompressed.
    """
    embedding = meta.number("embedding_length") or 0
    default = embedding // heads[0] if heads and heads[0] else 0
    lengths = []
    for word in ("key", "value"):
        length = meta.number(f"attention.{word}_length")
        own = meta.number(f"attention.{word}_length_swa") if slides else None
        lengths.append(own if own is not None else default if length is None else length)
    latent = bool(meta.number("attention.key_length_mla") and meta.number("attention.value_length_mla"))
    return lengths[0], 0 if latent else lengths[1], latent


def _index_length(meta: Metadata, layer: int, layers: int) -> int:
    if meta.architecture not in architectures.INDEXED:
        return 0
    own = meta.numbers("attention.indexer.types", layers)
    return (meta.number("attention.indexer.key_length") or 0) if own is None or own[layer] else 0


def _state_bytes(meta: Metadata, heads: list[int]) -> int:
    """Bytes a sequence and layer (``llama_hparams::n_embd_r`` and ``n_embd_s``), kept as f32."""
    embedding = meta.number("embedding_length") or 0
    first_heads = heads[0] if heads else 0
    kernel = meta.number("ssm.conv_kernel") or 0
    inner, state = meta.number("ssm.inner_size") or 0, meta.number("ssm.state_size") or 0
    if head_size := meta.number("wkv.head_size"):
        shifts = meta.number("token_shift_count")
        return ((2 if shifts is None else shifts) * embedding + embedding * head_size) * _F32
    if taps := meta.number("shortconv.l_cache"):
        return (embedding * (taps - 1) + state * inner) * _F32
    if head_dim := meta.number("kda.head_dim"):
        convolution = 3 * (kernel - 1 if kernel else 3) * first_heads * head_dim
        return (convolution + head_dim * head_dim * first_heads) * _F32
    if meta.architecture == "minimax-01":
        head_length, _, _ = _row(meta, heads, slides=False)
        return head_length * head_length * first_heads * _F32
    groups = meta.number("ssm.group_count") or 0
    convolution = max(kernel - 1, 0) * (inner + 2 * groups * state)
    return (convolution + state * inner) * _F32
