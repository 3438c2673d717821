"""The projector beside a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from narthex.models.gguf import inspect_file
from narthex.testing.gguf_writer import write_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model, 64 wide."""
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64}
    return write_gguf(tmp_path / "seer-7b-Q4_K_M.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])


def projector(folder: Path, name: str, **metadata: Any) -> Path:
    values = {"general.architecture": "clip", "general.type": "mmproj"}
    values |= {f"clip.vision.{key}": value for key, value in metadata.items()}
    return write_gguf(folder / name, values, [("v.patch_embd.weight", (14, 14, 3), "F16")])


def test_a_projector_is_found_by_its_name(model: Path, tmp_path: Path) -> None:
    path = projector(tmp_path, "mmproj-seer-7b-f16.gguf", projection_dim=64)
    assert inspect_file(model).projector == str(path)


def test_a_projector_is_found_by_its_first_bytes(model: Path, tmp_path: Path) -> None:
    path = projector(tmp_path, "eye.gguf")
    assert inspect_file(model).projector == str(path)


def test_of_two_projectors_the_namesake_is_taken(model: Path, tmp_path: Path) -> None:
    projector(tmp_path, "mmproj-other-9b.gguf")
    path = projector(tmp_path, "mmproj-seer-7b.gguf")
    assert inspect_file(model).projector == str(path)


def test_another_models_projector_is_not_taken(model: Path, tmp_path: Path) -> None:
    projector(tmp_path, "mmproj-other.gguf", projection_dim=100)
    assert inspect_file(model).projector is None


def test_a_projector_that_feeds_several_layers_is_taken(model: Path, tmp_path: Path) -> None:
    path = projector(tmp_path, "mmproj.gguf", projection_dim=4 * 64)
    assert inspect_file(model).projector == str(path)


def test_a_file_that_is_only_called_so_is_not_taken(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj-broken.gguf").write_bytes(b"no")
    write_gguf(tmp_path / "mmproj-not.gguf", {"general.architecture": "llama"})
    assert inspect_file(model).projector is None


def test_a_pipe_beside_the_model_is_not_opened(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "neighbour.gguf")
    assert inspect_file(model).projector is None
