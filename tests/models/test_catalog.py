"""From what a person types to a model file."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex import paths
from narthex.errors import ModelFileError
from narthex.models.catalog import find_model


def test_a_path_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.touch()
    assert find_model(str(path)) == path


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.gguf").touch()
    assert find_model("~/a.gguf") == tmp_path / "a.gguf"


def test_a_wrong_name_is_answered_with_the_likeliest_ones(tmp_path: Path) -> None:
    for name in ("aya-8b.gguf", "gemma-3-27b.gguf", "qwen3.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match="There is no model file") as caught:
        find_model(str(tmp_path / "gema-3-27b.gguf"))
    assert "holds gemma-3-27b.gguf, " in caught.value.hint


def test_a_folder_is_answered_with_the_models_in_it(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.gguf").touch()
    with pytest.raises(ModelFileError, match="is a folder") as caught:
        find_model(str(tmp_path))
    assert caught.value.hint.endswith("holds 0.gguf, 1.gguf, 2.gguf, 3.gguf, 4.gguf and 2 more.")


def test_nothing_near_by_leads_to_the_built_in_model(tmp_path: Path) -> None:
    for text in (tmp_path / "a.gguf", tmp_path / "none" / "a.gguf"):
        with pytest.raises(ModelFileError) as caught:
            find_model(str(text))
        assert "«demo»" in caught.value.hint


def test_demo_is_the_built_in_model_and_is_assembled_once(gemma: Path) -> None:
    first = find_model("demo")
    assert first.is_relative_to(paths.cache_dir())
    assert first.stat().st_size == gemma.stat().st_size
    before = first.stat().st_mtime_ns
    assert find_model("embedded") == first
    assert first.stat().st_mtime_ns == before
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_half_written_built_in_model_is_made_again(gemma: Path) -> None:
    path = find_model("demo")
    path.write_bytes(b"GGUF")
    assert find_model("demo").stat().st_size == gemma.stat().st_size


def test_a_folder_called_demo_is_not_meant(
    gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert find_model("demo").stat().st_size == gemma.stat().st_size


def test_a_file_called_demo_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").touch()
    assert find_model("demo") == Path("demo")


def test_a_cache_that_can_not_be_written_is_told(
    gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NARTHEX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelFileError, match="could not be written") as caught:
        find_model("demo")
    assert "253 MB" in caught.value.hint


def test_an_empty_name_is_said_to_be_empty() -> None:
    with pytest.raises(ModelFileError, match="name is empty"):
        find_model("")
