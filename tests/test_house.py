"""Where a model starts: its own table, the house defaults, and the environment before both."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.house import backoff_order, growth, house_knobs, model_notes

POLICY = """
[defaults]
num_gpu = 12
[policy]
grow = "ctx"
[roles]
stable = "deepseek-r1:32b"
[models."deepseek-r1:32b"]
num_ctx = 3500
num_thread = 3
backoff = ["batch"]
grow = "off"
note = "Slow and sure."
[models.mixtral]
remove = "Too large."
[models.llama3]
note = "Old"
remove = true
"""


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "house.toml"
    path.write_text(POLICY)
    monkeypatch.setenv("NARTHEX_CONFIG", str(path))


def test_a_model_of_its_own_starts_where_its_table_says() -> None:
    knobs = house_knobs("deepseek-r1:32b", layers=64, threads=8)
    assert (knobs.num_ctx, knobs.gpu_layers, knobs.threads) == (3500, 12, 3)
    assert knobs.batch == knobs.ubatch == 256


def test_any_other_model_starts_with_the_house_defaults() -> None:
    knobs = house_knobs("phi4", layers=40, threads=8)
    assert (knobs.num_ctx, knobs.gpu_layers, knobs.threads) == (4096, 12, 8)


def test_no_more_layers_than_there_are_and_none_without_a_card() -> None:
    assert house_knobs("phi4", layers=5).gpu_layers == 6
    assert house_knobs("phi4", layers=5, has_gpu=False).gpu_layers == 0
    assert house_knobs("phi4").gpu_layers == 12


def test_the_environment_goes_before_the_table_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_HOUSE_CTX", "8192")
    monkeypatch.setenv("NARTHEX_BACKOFF", "gpu")
    assert house_knobs("deepseek-r1:32b").num_ctx == 8192
    assert backoff_order("deepseek-r1:32b") == ("gpu_layers",)


def test_back_off_and_growth_are_the_models_own_where_it_has_them() -> None:
    assert backoff_order("deepseek-r1:32b") == ("batch",)
    assert backoff_order("phi4") == ("num_ctx", "gpu_layers", "batch")
    assert growth("deepseek-r1:32b") == ""
    assert growth("phi4") == "ctx"


def test_notes_are_sentences() -> None:
    assert model_notes("deepseek-r1:32b") == ("Role: stable.", "Slow and sure.")
    assert model_notes("mixtral") == ("A candidate for removal: Too large.",)
    assert model_notes("llama3") == ("Old.", "A candidate for removal.")
    assert model_notes("phi4") == ()
