"""``narthex plan`` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.memory.calibrate import PredictionRecord
from narthex.models.inspection import Inspection
from narthex.paths import journal_path
from narthex.units import GIB, MIB

from .conftest import Model

FIELDS = (
    "name",
    "kind",
    "model_bytes",
    "context_bytes",
    "compute_bytes",
    "overhead_bytes",
    "free_bytes",
    "fits",
)
WHOLE = ("--ctx", "8192", "--gpu-layers", "max")


@pytest.fixture
def model(shape: Model) -> Inspection:
    return shape("mistral3-24b")


def narthex(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(command, list(words))
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def asked(capsys: pytest.CaptureFixture[str], model: Inspection, *words: str) -> dict[str, Any]:
    code, out, err = narthex(capsys, "plan", model.path, *words, "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def test_the_json_fields_are_those_promised(capsys: pytest.CaptureFixture[str], model: Inspection) -> None:
    data = asked(capsys, model, *WHOLE, "--vram", "80GB")
    assert {"devices", "fits", "known_architecture", "gaps"} <= set(data)
    gpu, host = data["devices"]
    assert set(gpu) == set(host) == set(FIELDS)
    assert (gpu["name"], gpu["kind"], host["kind"]) == ("GPU0", "gpu", "host")
    assert gpu["free_bytes"] == 80 * GIB
    assert gpu["fits"] is data["fits"] is data["known_architecture"] is True
    assert data["frontier"] == []


def test_context_is_for_one_slot(capsys: pytest.CaptureFixture[str], model: Inspection) -> None:
    alone, four = (asked(capsys, model, *WHOLE, "--vram", "80GB", "--parallel", n) for n in ("1", "4"))
    assert four["devices"][0]["context_bytes"] == 4 * alone["devices"][0]["context_bytes"]


def test_without_a_layer_count_the_frontier_is_listed(
    capsys: pytest.CaptureFixture[str], model: Inspection
) -> None:
    rows = asked(capsys, model, "--ctx", "8192", "--vram", "16GB")["frontier"]
    assert {row["kv_type"] for row in rows} == {"f16", "q8_0", "q4_0"}
    assert {row["gpu_layers"] for row in rows} == set(range(42))
    rows = asked(capsys, model, "--gpu-layers", "max", "--vram", "16GB")["frontier"]
    assert {row["gpu_layers"] for row in rows} == {41}


def test_what_does_not_fit_is_an_answer_with_a_way_out(
    capsys: pytest.CaptureFixture[str], model: Inspection
) -> None:
    code, out, _ = narthex(capsys, "plan", model.path, *WHOLE, "--vram", "14.5GB")
    assert code == 0
    assert "Does not fit by" in out
    assert "layers fit with this context" in out
    assert "a context of" in out
    code, out, _ = narthex(capsys, "plan", model.path, *WHOLE, "--vram", "24GB")
    assert code == 0
    assert "Fits:" in out
    code, out, _ = narthex(capsys, "plan", model.path, *WHOLE, "--vram", "500MiB")
    assert "No other context or layer count fits either." in out


def test_a_reserve_can_be_given(capsys: pytest.CaptureFixture[str], model: Inspection) -> None:
    data = asked(capsys, model, *WHOLE, "--vram", "80GB", "--reserve", "3GiB")
    assert data["reserve_bytes"] == 3 * GIB
    assert asked(capsys, model, *WHOLE, "--vram", "80GB")["reserve_bytes"] == 128 * MIB


def test_the_reserve_may_be_a_setting(
    capsys: pytest.CaptureFixture[str], model: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARTHEX_RESERVE", "2GiB")
    assert asked(capsys, model, *WHOLE, "--vram", "80GB")["reserve_bytes"] == 2 * GIB


def test_a_damaged_journal_leaves_a_plan_and_a_gap(
    capsys: pytest.CaptureFixture[str], model: Inspection
) -> None:
    journal_path().parent.mkdir(parents=True)
    journal_path().write_bytes(b"no database at all" * 99)
    data = asked(capsys, model, *WHOLE)
    assert data["devices"]
    assert any("What earlier loads taught is not known" in gap for gap in data["gaps"])


def test_a_setting_that_the_engine_refuses_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], model: Inspection
) -> None:
    words = ("plan", model.path, *WHOLE, "--vram", "24GB", "--kv-type", "q8_0", "--flash-attn", "off")
    code, out, err = narthex(capsys, *words)
    assert code == 2
    assert out == ""
    assert "needs flash attention" in err


def test_without_a_gpu_main_memory_is_planned(
    capsys: pytest.CaptureFixture[str], model: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    data = asked(capsys, model, "--ctx", "4096", "--gpu-layers", "0")
    host = data["devices"][-1]
    assert host["kind"] == "host"
    assert host["free_bytes"] > 0


def test_an_absent_engine_leaves_a_plan_and_a_gap(
    capsys: pytest.CaptureFixture[str], model: Inspection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(tmp_path / "nowhere"))
    data = asked(capsys, model, *WHOLE, "--vram", "24GB", "--witness")
    assert data["witness"] == []
    assert any("No witness" in gap for gap in data["gaps"])
    assert data["devices"][0]["model_bytes"] > 0


def test_loads_in_the_journal_correct_a_real_plan_and_no_assumed_card(
    capsys: pytest.CaptureFixture[str], model: Inspection
) -> None:
    before = asked(capsys, model, "--ctx", "4096", "--gpu-layers", "0")
    planned = before["devices"][-1]["compute_bytes"]
    record = PredictionRecord(
        model_identity=model.identity,
        engine_key="llama-server b1 CPU",
        device="Host",
        term="compute",
        knobs=KnobValues(),
        predicted_bytes=planned,
        actual_bytes=planned + 9 * MIB,
        source="log",
    )
    with Journal.open() as journal:
        journal.append_prediction(None, record)
    after = asked(capsys, model, "--ctx", "4096", "--gpu-layers", "0")
    assert after["devices"][-1]["compute_bytes"] == planned + 9 * MIB
    assert after["calibrated_by"] == {"engine": "llama-server b1 CPU", "loads": 1}
    assumed = asked(capsys, model, "--ctx", "4096", "--gpu-layers", "0", "--vram", "24GB")
    assert assumed["calibrated_by"] is None


def test_a_server_that_needs_less_is_told(capsys: pytest.CaptureFixture[str], model: Inspection) -> None:
    data = asked(capsys, model, *WHOLE, "--vram", "24GB")
    assert data["with_logits_for_slots_only"]["compute_bytes"][0] < data["devices"][0]["compute_bytes"]
    _, out, _ = narthex(capsys, "plan", model.path, *WHOLE, "--vram", "24GB")
    assert "for its slots only needs" in out
