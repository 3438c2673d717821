"""Split models: any part stands for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narthex.errors import ModelFileError
from narthex.models.gguf import inspect_file
from narthex.testing.gguf_writer import Tensor, Typed, write_gguf

TENSORS: list[list[Tensor]] = [
    [("token_embd.weight", (64, 100), "Q8_0")],
    [("blk.0.attn_k.weight", (64, 64), "F16")],
    [("blk.1.attn_k.weight", (64, 64), "F16"), ("output.weight", (64, 100), "Q8_0")],
]
MODEL = {"general.architecture": "llama", "llama.block_count": 2, "llama.attention.head_count": 4}


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in three parts, as llama-gguf-split writes it: the metadata in the first."""
    paths = []
    for number, tensors in enumerate(TENSORS):
        split: dict[str, Any] = {
            "split.no": Typed("u16", number),
            "split.count": Typed("u16", 3),
            "split.tensors.count": Typed("i32", 4),
        }
        path = tmp_path / f"model-{number + 1:05d}-of-00003.gguf"
        paths.append(write_gguf(path, (MODEL if not number else {}) | split, tensors))
    return paths


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_part_stands_for_the_whole(parts: list[Path], number: int) -> None:
    model = inspect_file(parts[number])
    assert model.path == str(parts[0])
    assert model.files == tuple(map(str, parts))
    assert model.file_bytes == sum(path.stat().st_size for path in parts)
    assert [tensor.file_index for tensor in model.tensors] == [0, 1, 2, 2]
    assert model.parameters == 2 * 6400 + 2 * 4096
    assert model.identity == inspect_file(parts[0]).identity


def test_a_changed_part_is_another_model(parts: list[Path]) -> None:
    before = inspect_file(parts[0]).identity
    tensors: list[Tensor] = [("blk.0.attn_k.weight", (64, 64), "BF16")]
    write_gguf(parts[1], {"split.no": 1, "split.count": 3}, tensors)
    assert inspect_file(parts[0]).identity != before


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelFileError, match=r"3 parts, and model-00002-of-00003\.gguf is not there"):
        inspect_file(parts[0])


def test_a_cut_part_is_named_with_what_is_missing(parts: list[Path]) -> None:
    with parts[2].open("r+b") as file:
        file.truncate(parts[2].stat().st_size - 100)
    with pytest.raises(ModelFileError, match=r"00003-of-00003\.gguf is cut off: \d+ bytes"):
        inspect_file(parts[0])


def test_a_renamed_part_is_told(parts: list[Path]) -> None:
    with pytest.raises(ModelFileError, match="one of 3 parts, but its name does not say which"):
        inspect_file(parts[0].rename(parts[0].with_name("model.gguf")))


def test_parts_of_two_models_are_told(parts: list[Path]) -> None:
    write_gguf(parts[1], {}, TENSORS[0])
    with pytest.raises(ModelFileError, match=r"hold the tensor «token_embd\.weight»"):
        inspect_file(parts[0])
    write_gguf(parts[1], {}, [])
    with pytest.raises(ModelFileError, match="hold 3 tensors of 4"):
        inspect_file(parts[0])


def test_a_name_that_only_looks_like_a_part_is_a_file(tmp_path: Path) -> None:
    for name in ("model-00000-of-00003.gguf", "model-00004-of-00003.gguf", "model-1-of-3.gguf"):
        assert len(inspect_file(write_gguf(tmp_path / name, MODEL, TENSORS[0])).files) == 1


def test_a_part_that_is_missing_itself_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="There is no file"):
        inspect_file(tmp_path / "model-00001-of-99999.gguf")
