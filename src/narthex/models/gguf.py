"""``inspect_file``: from a model's GGUF files to its :class:`~narthex.models.inspection.Inspection`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from narthex.errors import ModelFileError
from narthex.models import architectures
from narthex.models.dialects import beside_bytes, to_llama_cpp
from narthex.models.header import printable, read_header
from narthex.models.inspection import GROUPS, ArrayLength, Inspection, TensorInfo
from narthex.models.layers import Metadata, is_expert, layer_shapes
from narthex.models.parts import check_parts, find_parts
from narthex.models.projector import find_projector
from narthex.models.quants import MIXES

_MAX_STATE = 2**40  # bytes; kimi-linear keeps 2 MB
_MAX_LAYERS = 1024  # LLAMA_MAX_LAYERS of b11434 is 512


class Source(NamedTuple):
    """Where a header comes from: what can't be read from metadata and tensors themselves."""

    label: str  # what errors call it
    path: str  # "" where there is no file that can be opened
    files: tuple[str, ...]
    file_bytes: int
    identity: str
    name: str  # where the metadata hold none
    projector: str | None = None
    hint: str = "Name the GGUF file of the language model itself."


def inspect_file(path: str | Path) -> Inspection:
    """Read the header of a model: one file, or all parts of a split one, whichever part is named.

    The weights are not read. Raises ModelFileError with one sentence for anything that is no whole,
    readable GGUF model.
    """
    given = Path(path)
    headers = [read_header(part, index) for index, part in enumerate(find_parts(given))]
    first = headers[0]
    check_parts(given, headers)
    source = Source(
        label=str(given),
        path=str(first.path),
        files=tuple(str(header.path) for header in headers),
        file_bytes=sum(header.file_bytes for header in headers),
        identity=hashlib.sha256(b"".join(header.digest for header in headers)).hexdigest()[:32],
        name=first.path.stem,
    )
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    inspection = inspection_of(first.metadata, tensors, source)
    projector = find_projector(first.path, inspection.embedding_length or None)
    return msgspec.structs.replace(inspection, projector=projector) if projector else inspection


def inspection_of(metadata: dict[str, Any], tensors: tuple[TensorInfo, ...], source: Source) -> Inspection:
    """The inspection of a header, however it was come by. Raises ModelFileError for what is no model."""
    metadata, tensors, translated = to_llama_cpp(metadata, tensors)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        _refuse(source, "does not say what architecture it is")
    if architecture == "clip":
        _refuse(source, "is a projector, not a language model")
    meta = Metadata(architecture, metadata)
    layers = meta.number("block_count")
    if not layers:
        _refuse(source, f"is no language model: «{architecture}.block_count» is missing")
    if layers > _MAX_LAYERS:
        _refuse(source, f"claims {layers:,} layers")
    if not tensors:
        _refuse(source, "holds no weights, only a vocabulary")
    found = _inspection(meta, layers, tensors, source)
    return msgspec.structs.replace(found, ollamas_format=True) if translated else found


def _refuse(source: Source, what: str) -> NoReturn:
    raise ModelFileError(f"{source.label} {printable(what)}.", hint=source.hint)


def _inspection(meta: Metadata, layers: int, tensors: tuple[TensorInfo, ...], source: Source) -> Inspection:
    shapes, gaps = layer_shapes(meta, layers, tensors)
    if (state := max(shape.state_bytes for shape in shapes)) > _MAX_STATE:
        _refuse(source, f"claims a recurrent state of {state:,} bytes a layer")
    type_bytes, group_bytes = Counter[str](), dict.fromkeys(GROUPS, 0)
    for tensor in tensors:
        type_bytes[tensor.type_name] += tensor.nbytes
        group_bytes[_group(tensor.name)] += tensor.nbytes
    name = meta.values.get("general.name")
    feed_forward = max(meta.numbers("feed_forward_length", layers) or [0])
    context = meta.number("context_length")
    if context is None:
        gaps += ("The file does not tell the context it was trained on.",)
    return Inspection(
        path=source.path,
        files=source.files,
        projector=source.projector,
        identity=source.identity,
        architecture=meta.architecture,
        name=name if isinstance(name, str) and name else source.name,
        layers=layers,
        parameters=sum(tensor.elements for tensor in tensors),
        file_bytes=source.file_bytes,
        context_train=context or 0,
        vocabulary=_vocabulary(meta, tensors),
        quantization=_mix(meta.values, type_bytes),
        quantization_bytes=dict(type_bytes.most_common()),
        experts=meta.number("expert_count") or 0,
        experts_used=max(meta.numbers("expert_used_count", layers) or [0]),
        embedding_length=meta.number("embedding_length") or 0,
        feed_forward_length=feed_forward,
        expert_feed_forward_length=_expert_width(meta, layers, tensors),
        heads=max(meta.numbers("attention.head_count", layers) or [0]),
        kv_heads=max(shape.kv_heads for shape in shapes),
        layer_shapes=shapes,
        group_bytes=group_bytes,
        metadata=meta.values,
        tensors=tensors,
        nextn_layers=min(meta.number("nextn_predict_layers") or 0, layers),
        gaps=gaps,
        beside_bytes=beside_bytes(tensors),
        known_architecture=meta.architecture in architectures.KNOWN,
    )


def _vocabulary(meta: Metadata, tensors: Iterable[TensorInfo]) -> int:
    tokens = meta.values.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayLength):
        return tokens.length
    if isinstance(tokens, tuple):
        return len(tokens)
    if (size := meta.number("vocab_size")) is not None:
        return size
    return next((t.dims[1] for t in tensors if t.name == "token_embd.weight" and len(t.dims) == 2), 0)


def _mix(metadata: dict[str, Any], type_bytes: Counter[str]) -> str:
    number = metadata.get("general.file_type")
    if isinstance(number, int) and number in MIXES:
        return MIXES[number]
    return type_bytes.most_common(1)[0][0] if type_bytes else "?"


def _expert_width(meta: Metadata, layers: int, tensors: Iterable[TensorInfo]) -> int:
    if width := max(meta.numbers("expert_feed_forward_length", layers) or [0]):
        return width
    return max((t.dims[1] for t in tensors if "ffn_up_exps" in t.name and len(t.dims) == 3), default=0)


def _group(name: str) -> str:
    """One of GROUPS for a tensor's name."""
    part = name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 1 else name
    if is_expert(part):
        return "experts"
    if "norm" in part:
        return "norm"
    if part.startswith(("token_embd", "per_layer_token_embd", "position_embd", "token_types")):
        return "embedding"
    if part.startswith(("attn", "ssm", "time_mix", "shortconv", "indexer", "cross_attn")):
        return "attention"
    if part.startswith(("ffn", "channel_mix")):
        return "feed_forward"
    return "output" if part.startswith("output") else "other"
