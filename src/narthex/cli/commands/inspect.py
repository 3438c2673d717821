"""``narthex inspect``: what the header of a model file says, as short tables or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import click

from narthex.cli.options import engine_option, json_option, model_argument, ollama_option
from narthex.models.header import printable
from narthex.models.inspection import AttentionKind, Inspection, LayerShape
from narthex.units import format_size


@click.command()
@model_argument
@engine_option
@ollama_option
@json_option
def command(model: str, engine: str | None, ollama: str | None, as_json: bool) -> None:
    """What the header of a model file says. The weights are not read.

    MODEL is a .gguf file (any part of a split one), «demo» for the built-in model, or a name in Ollama;
    where the file of that can't be read from here, the server is asked.
    """
    from narthex.cli.target import find_subject

    inspection = find_subject(model, engine=engine, ollama=ollama).inspection
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(as_data(inspection)), indent=2))
        return
    click.echo(as_text(inspection))


def as_data(inspection: Inspection) -> dict[str, Any]:
    """What ``--json`` prints; fields may be added, never changed."""
    return {
        "architecture": printable(inspection.architecture),
        "name": printable(inspection.name),
        "layers": inspection.layers,
        "parameters": inspection.parameters,
        "file_bytes": inspection.file_bytes,
        "context_train": inspection.context_train,
        "vocabulary": inspection.vocabulary,
        "quantization": inspection.quantization,
        "experts": inspection.experts,
        "experts_used": inspection.experts_used,
        "embedding_length": inspection.embedding_length,
        "feed_forward_length": inspection.feed_forward_length,
        "expert_feed_forward_length": inspection.expert_feed_forward_length,
        "heads": inspection.heads,
        "kv_heads": inspection.kv_heads,
        "nextn_layers": inspection.nextn_layers,
        "attention": {
            "kinds": {kind: len(layers) for kind, layers in _kinds(inspection.layer_shapes).items()},
            "layers": [_layer_data(shape) for shape in inspection.layer_shapes],
        },
        "group_bytes": inspection.group_bytes,
        "quantization_bytes": inspection.quantization_bytes,
        "files": [printable(file) for file in inspection.files],
        "projector": inspection.projector and printable(inspection.projector),
        "beside_bytes": inspection.beside_bytes,
        "ollamas_format": inspection.ollamas_format,
        "identity": inspection.identity,
        "known_architecture": inspection.known_architecture,
        "gaps": [printable(gap) for gap in inspection.gaps],
    }


def as_text(inspection: Inspection) -> str:
    """What a person reads: facts, then bytes by group, then what the layers keep."""
    total = sum(inspection.group_bytes.values())
    weights = [
        (name.replace("_", " "), format_size(size), f"{size / total:5.1%}")
        for name, size in inspection.group_bytes.items()
        if size
    ]
    layers = [(_what(shape), f"{len(at)}", _ranges(at)) for shape, at in _alike(inspection.layer_shapes)]
    return "\n\n".join(
        [
            f"{printable(inspection.name)} ({printable(inspection.architecture)})",
            _table(_facts(inspection)),
            "Weights\n" + _table(weights),
            "Layers\n" + _table(layers),
            *(f"Note: {printable(gap)}" for gap in inspection.gaps),
        ]
    )


def _facts(inspection: Inspection) -> Iterable[tuple[str, str]]:
    count = len(inspection.files)
    parts = f" in {count} parts" if count > 1 else ""
    place = printable(inspection.path) or "not readable from here; as Ollama tells it"
    yield "file", f"{place}, {format_size(inspection.file_bytes)}{parts}"
    if inspection.ollamas_format:
        yield "format", "Ollama's own; a llama-server of another build may refuse it"
    if inspection.projector:
        yield "projector", printable(inspection.projector)
    if inspection.beside_bytes:
        yield "beside", f"{format_size(inspection.beside_bytes)} loaded onto the GPU beside the model"
    yield "parameters", _parameters(inspection.parameters)
    types = (f"{format_size(size)} {name}" for name, size in inspection.quantization_bytes.items())
    yield "quantization", f"{inspection.quantization}: {', '.join(types)}"
    context = inspection.context_train
    yield "context", f"{context:,} tokens in training" if context else "not told"
    yield "vocabulary", f"{inspection.vocabulary:,} tokens"
    yield (
        "layers",
        f"{inspection.layers}"
        + (f", the last {inspection.nextn_layers} only to guess ahead" if inspection.nextn_layers else ""),
    )
    yield "heads", f"{inspection.heads}, {inspection.kv_heads} for keys and values"
    yield "embedding", f"{inspection.embedding_length:,} wide"
    yield "feed-forward", f"{inspection.feed_forward_length:,} wide"
    if inspection.experts:
        width = inspection.expert_feed_forward_length
        yield "experts", f"{inspection.experts}, {inspection.experts_used} used for a token, {width:,} wide"
    yield "identity", inspection.identity


def _layer_data(shape: LayerShape) -> dict[str, Any]:
    return {
        "kind": shape.attention,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "key_length": shape.key_length,
        "value_length": shape.value_length,
        "window": shape.window,
        "state_bytes": shape.state_bytes,
        "index_length": shape.index_length,
        "weight_bytes": shape.weight_bytes,
        "expert_bytes": shape.expert_bytes,
    }


def _kinds(shapes: Sequence[LayerShape]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for layer, shape in enumerate(shapes):
        found.setdefault(shape.attention, []).append(layer)
    return found


def _alike(shapes: Sequence[LayerShape]) -> list[tuple[LayerShape, list[int]]]:
    """Layers that keep the same things, the commonest first."""
    found: dict[str, tuple[LayerShape, list[int]]] = {}
    for layer, shape in enumerate(shapes):
        found.setdefault(_what(shape), (shape, []))[1].append(layer)
    return sorted(found.values(), key=lambda pair: -len(pair[1]))


def _what(shape: LayerShape) -> str:
    state = f"a state of {format_size(shape.state_bytes)}"
    if shape.attention is AttentionKind.RECURRENT:
        return f"recurrent, {state}"
    if shape.attention is AttentionKind.NONE:
        return "keeps nothing of its own"
    if shape.window is not None:
        kind = f"sliding window of {shape.window:,} tokens"
    else:
        kind = f"{shape.attention} attention"
    widths = {shape.key_length, shape.value_length} - {0}
    width = f"{shape.key_length} + {shape.value_length}" if len(widths) > 1 else f"{shape.key_length}"
    plural = "s" if shape.kv_heads != 1 else ""
    also = f", and {state}" if shape.state_bytes else ""
    return f"{kind}, {shape.kv_heads} KV head{plural} of {width}{also}"


def _ranges(layers: Sequence[int]) -> str:
    """``0–4, 6–10``."""
    runs = []
    for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        numbers = [layer for _, layer in run]
        runs.append(f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}")
    return "layers " + ", ".join(runs)


def _parameters(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} billion"
    return f"{count / 1e6:.1f} million"


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
    return "\n".join(f"  {'  '.join(row).rstrip()}" for row in padded)
