"""Small models of any shape, and the full-size shapes of the recorded data."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.testing.gguf_writer import Tensor, write_gguf

Inspect = Callable[..., Inspection]


@pytest.fixture
def inspect_shape(tmp_path: Path) -> Inspect:
    """Writes a model of the given architecture and metadata, with two small tensors, and inspects it."""

    def inspect(
        architecture: str, layers: int = 4, tensors: tuple[Tensor, ...] = (), **metadata: Any
    ) -> Inspection:
        keys = {
            "block_count": layers,
            "context_length": 4096,
            "embedding_length": 1024,
            "feed_forward_length": 2048,
            "attention.head_count": 16,
            "attention.head_count_kv": 4,
        }
        keys |= {key.replace("__", "."): value for key, value in metadata.items()}
        values: dict[str, Any] = {"general.architecture": architecture}
        values |= {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}
        embedding: Tensor = ("token_embd.weight", (1024, 64), "Q8_0")
        return inspect_file(write_gguf(tmp_path / f"{architecture}.gguf", values, [embedding, *tensors]))

    return inspect


@pytest.fixture(scope="session")
def synth(shared: Path) -> ModuleType:
    """The writer of the well-known shapes that the recorded data was measured with."""
    pytest.importorskip("numpy")
    spec = importlib.util.spec_from_file_location("synth_gguf", shared / "bench" / "synth_gguf.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module
