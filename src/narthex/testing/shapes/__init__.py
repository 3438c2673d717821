"""Small models of unusual kinds, complete enough that a real engine loads their header-only files.

Each shape is the metadata and the tensor table of a made-up model; :func:`write_shape` writes its file. They
exist to hold what we say about a kind of model against what an engine says (``llama-fit-params``).
Tensor lists follow the ``load_arch_tensors`` functions of llama.cpp b11434.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from narthex.testing.gguf_writer import write_gguf
from narthex.testing.shapes import attending, recurrent
from narthex.testing.shapes.pieces import Shape

SHAPES: dict[str, Callable[[], Shape]] = {
    "gemma2": attending.gemma2,
    "cohere2": attending.cohere2,
    "gpt-oss": attending.gpt_oss,
    "gemma3n": attending.gemma3n,
    "deepseek2": attending.deepseek2,
    "deepseek32": attending.deepseek32,
    "mamba": recurrent.mamba,
    "rwkv7": recurrent.rwkv7,
    "lfm2": recurrent.lfm2,
    "falcon-h1": recurrent.falcon_h1,
    "nemotron_h": recurrent.nemotron_h,
    "qwen3next": recurrent.qwen3next,
}


def write_shape(name: str, path: str | os.PathLike[str]) -> Path:
    """Write the header-only file of one of :data:`SHAPES`."""
    return write_gguf(path, *SHAPES[name]())
