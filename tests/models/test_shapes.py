"""What each layer keeps, held against what a real engine plans for the same file.

The figures are the context MiB that ``llama-fit-params`` (llama.cpp b11434, CPU) printed for
``-c 131072 -np 8 -ub 512 -b 2048 -fa on -fitp on`` on the files of ``narthex.testing.shapes``, rounded down.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.models.gguf import inspect_file
from narthex.models.inspection import LayerShape
from narthex.testing.shapes import SHAPES, write_shape

SLOTS, CONTEXT, MICRO_BATCH, F16 = 8, 16_384, 512, 2
ENGINE_MIB = {
    "gemma2": 1968,
    "cohere2": 944,
    "gpt-oss": 536,
    "gemma3n": 1280,
    "deepseek2": 864,
    "deepseek32": 1056,
    "mamba": 19,
    "rwkv7": 24,
    "lfm2": 768,
    "falcon-h1": 913,
    "nemotron_h": 1057,
    "qwen3next": 612,
}


def kept_bytes(shape: LayerShape) -> int:
    """Bytes a slot: rows for the context (or the window and a micro-batch, padded to 256), and the state."""
    rows = CONTEXT
    if shape.window is not None:
        rows = min(rows, -(-(shape.window + MICRO_BATCH) // 256) * 256)
    row = shape.kv_heads * (shape.key_length + shape.value_length) + shape.index_length
    return rows * row * F16 + shape.state_bytes


def test_every_shape_has_been_shown_to_an_engine() -> None:
    assert SHAPES.keys() == ENGINE_MIB.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_the_layers_keep_what_the_engine_plans_for(tmp_path: Path, name: str) -> None:
    model = inspect_file(write_shape(name, tmp_path / "model.gguf"))
    assert model.known_architecture
    assert model.gaps == ()
    assert SLOTS * sum(map(kept_bytes, model.layer_shapes)) // 2**20 == ENGINE_MIB[name]
