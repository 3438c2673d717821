"""``Inspection``: everything the header of a model file tells, in the terms of the field."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

GROUPS = ("embedding", "attention", "feed_forward", "experts", "output", "norm", "other")


class AttentionKind(StrEnum):
    """What a layer keeps from one token to the next."""

    FULL = "full"  # keys and values of every token
    SLIDING = "sliding"  # keys and values of the last `window` tokens
    LATENT = "latent"  # one compressed row a token (multi-head latent attention)
    RECURRENT = "recurrent"  # a state of fixed size a sequence
    NONE = "none"  # nothing (a layer that shares another's cache, or has no mixer)


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor of the file: ``dims`` in ggml order (fastest first), ``nbytes`` as stored."""

    name: str
    dims: tuple[int, ...]
    type_name: str
    nbytes: int
    offset: int
    file_index: int = 0

    @property
    def elements(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.dims:
            count *= size
        return count


class LayerShape(msgspec.Struct, frozen=True, kw_only=True):
    """One repeating layer (``blk.N``). Bytes are as stored in the file."""

    attention: AttentionKind
    heads: int = 0
    kv_heads: int = 0
    key_length: int = 0  # elements a KV head; for LATENT the compressed row that is cached as K
    value_length: int = 0  # elements a KV head; for LATENT 0 where V is a view of K
    window: int | None = None  # tokens, SLIDING only
    state_bytes: int = 0  # bytes of recurrent state a sequence (conv + ssm), as f32; a layer can hold both
    index_length: int = 0  # elements a token of a sparse-attention index, keys only, kept beside the cache
    weight_bytes: int = 0
    expert_bytes: int = 0  # routed experts' share of weight_bytes


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What the header says. Made by :func:`narthex.models.gguf.inspect_file`.

    ``metadata`` holds scalars as they are and, for arrays, small ones as tuples and large ones as their
    length only (``ArrayLength``); ``identity`` is a hash of header and tensor table over all split files,
    so two names of one file are known as one and a changed file is not.
    """

    path: str
    files: tuple[str, ...]
    projector: str | None  # an mmproj file beside the model
    identity: str
    architecture: str
    name: str
    layers: int
    parameters: int
    file_bytes: int
    context_train: int
    vocabulary: int
    quantization: str  # the mix in one word, as in "Q4_K_M"
    quantization_bytes: dict[str, int]  # type name → bytes
    experts: int
    experts_used: int
    embedding_length: int
    feed_forward_length: int  # the largest over layers; dense part
    expert_feed_forward_length: int
    heads: int
    kv_heads: int  # the largest over layers
    layer_shapes: tuple[LayerShape, ...]
    group_bytes: dict[str, int]  # GROUPS → bytes; attention includes recurrent mixers
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    nextn_layers: int = (
        0  # of ``layers``, the last: they predict more tokens ahead and are left out of the cache
    )
    gaps: tuple[str, ...] = ()  # what the header does not tell, in sentences
    known_architecture: bool = True  # False: the attention kinds are a guess from tensor names
    beside_bytes: int = 0  # what the engine loads onto the GPU beside the model: a projector, an adapter
    ollamas_format: bool = False  # written in Ollama's own names: another llama-server may refuse the file


class ArrayLength(msgspec.Struct, frozen=True):
    """Stands in ``metadata`` for an array too long to keep (a vocabulary): its length and element type."""

    length: int
    kind: str
