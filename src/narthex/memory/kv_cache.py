"""What the engine keeps from token to token, and how it rounds what it is asked for.

Rounding follows ``llama_context``'s constructor, cache sizes ``llama_kv_cache``, ``llama_kv_cache_iswa`` and
``llama_memory_recurrent`` of llama.cpp b11434.
"""

from __future__ import annotations

from typing import Literal

from narthex.knobs import KnobValues
from narthex.memory.blocks import Setup
from narthex.memory.graph import BLOCKS, PLAIN
from narthex.memory.weights import Placement, padded_bytes
from narthex.models.inspection import AttentionKind, Inspection, LayerShape

KV_TYPES = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
# «dropped»: the engine wanted flash attention, built the cache for it, and found that it can't have it
Flash = Literal["on", "off", "dropped"]

CELL_STEP = 256  # contexts and windows are rounded up to this many cells


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def setup_for(
    inspection: Inspection, knobs: KnobValues, *, flash: Flash = "on", every_output: bool = True
) -> Setup:
    """The engine's own counts for a setting.

    It is started with context × slots; batch ≤ context and micro-batch ≤ batch; each slot's share is
    rounded up to 256 cells. ``every_output``: logits are planned for every token of a micro-batch, as
    ``llama-fit-params`` does; ``llama-server`` of new builds plans for one a slot.
    """
    slots = max(knobs.parallel, 1)
    asked = knobs.num_ctx * slots
    batch = min(knobs.batch, asked)
    ubatch = min(batch, knobs.ubatch)
    cells = _up(_up(asked, CELL_STEP) // slots, CELL_STEP)
    tokens = min(ubatch, cells * slots)
    outputs = min(tokens, batch if every_output else slots)
    window = max((shape.window or 0 for shape in inspection.layer_shapes), default=0)
    return Setup(
        tokens=_up(tokens, slots),
        outputs=outputs,
        streams=slots,
        cells=cells,
        window_cells=_up(min(cells, window + ubatch), CELL_STEP),
        kv_type=KV_TYPES[knobs.kv_type],
        flash=flash == "on",
        transposed=flash == "off",
    )


def cache_bytes(inspection: Inspection, setup: Setup, placement: Placement) -> tuple[int, int]:
    """Bytes of KV cache and recurrent state on the GPU and on the host."""
    on_gpu = on_host = 0
    for layer in range(len(inspection.layer_shapes)):
        gpu = placement.layer_on_gpu(layer)
        size = layer_bytes(inspection, layer, setup, on_gpu=gpu)
        if gpu:
            on_gpu += size
        else:
            on_host += size
    return on_gpu, on_host


def layer_bytes(inspection: Inspection, layer: int, setup: Setup, *, on_gpu: bool = True) -> int:
    """Bytes of one layer's cache and state."""
    shape = inspection.layer_shapes[layer]
    widest = 0
    if setup.transposed:
        widest = max(row.kv_heads * row.value_length for row in inspection.layer_shapes)
    size = sum(
        _tensor(setup.kv_type, length, setup.streams, cells, on_gpu=on_gpu)
        for length, cells in _rows(shape, setup, widest)
    )
    return size + shape.state_bytes * setup.streams


def _rows(shape: LayerShape, setup: Setup, widest: int) -> list[tuple[int, int]]:
    """(elements a token, cells) of each cache tensor of a layer."""
    kind = shape.attention
    if kind in (AttentionKind.NONE, AttentionKind.RECURRENT):
        return []
    cells = setup.window_cells if kind is AttentionKind.SLIDING else setup.cells
    rows = [(shape.kv_heads * shape.key_length, cells)]
    value = shape.kv_heads * shape.value_length
    if value and setup.transposed:
        value = widest  # transposed values all get the widest layer's room
    if value:
        rows.append((value, cells))
    if shape.index_length:
        rows.append((shape.index_length, cells))
    return rows


def _tensor(kind: str, length: int, streams: int, cells: int, *, on_gpu: bool) -> int:
    block, size = BLOCKS[kind]
    return padded_bytes(kind, length, length // block * size * cells * streams, on_gpu=on_gpu)


def quantised(kv_type: str) -> bool:
    """Whether a cache type (a knob's value) is quantised; the engine then insists on flash attention."""
    return KV_TYPES[kv_type] not in PLAIN
