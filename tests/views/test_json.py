"""The fields of ``tune --json`` that others build on."""

from __future__ import annotations

import json

import msgspec

from narthex.studies.records import Baseline
from narthex.testing.studies import AUTO, study_result
from narthex.views.json import tune_json

TOP = ["study", "goal", "model", "engine", "engine_loads", "seconds", "baselines", "profile", "trials"]
KNOBS = ["num_ctx", "gpu_layers", "batch", "ubatch", "kv_type", "flash_attn", "parallel", "threads"]


def test_every_promised_field_is_there() -> None:
    found = tune_json(study_result())
    assert set(TOP) <= set(found)
    assert {"name", "knobs", "outcome", "turn_s", "decode_tps", "prompt_tps"} <= set(found["baselines"][0])
    assert {"knobs", "outcome", "reason", "turn_s", "decode_tps", "prompt_tps"} <= set(found["trials"][0])
    assert {"knobs", "turn_s", "decode_tps", "prompt_tps", "soak_s", "proven"} <= set(found["profile"])
    for part in (found["profile"], found["baselines"][0], found["trials"][0]):
        assert set(KNOBS) <= set(part["knobs"])


def test_it_is_plain_json_and_values_are_right() -> None:
    found = json.loads(json.dumps(tune_json(study_result())))
    assert found["study"] == "20261122-1a2b3c"
    assert found["goal"] == "fastest"
    assert found["engine_loads"] == 8
    assert found["profile"]["knobs"]["flash_attn"] == "on"
    assert found["profile"]["knobs"]["gpu_layers"] == 65
    assert found["profile"]["soak_s"] == 150.0
    assert found["profile"]["proven"] is True
    assert found["trials"][2]["outcome"] == "out_of_memory"
    assert "cudaMalloc failed" in found["trials"][2]["reason"]
    assert found["trials"][2]["turn_s"] is None
    assert [row["name"] for row in found["baselines"]] == ["engine", "house", "current"]
    assert found["baselines"][2]["outcome"] is None


def test_a_soak_tells_what_worked_beside_it_and_its_doubts() -> None:
    (report,) = study_result().soaks
    beside = msgspec.structs.replace(report, beside="comfyui", jobs=2, doubts=("it waited",))
    alone, busy = (
        tune_json(msgspec.structs.replace(study_result(), soaks=(each,)))["soaks"][0]
        for each in (report, beside)
    )
    assert (alone["beside"], alone["jobs"], alone["doubts"]) == (None, None, [])
    assert (busy["beside"], busy["jobs"], busy["doubts"]) == ("comfyui", 2, ["it waited"])


def test_without_a_winner_the_profile_is_null() -> None:
    assert tune_json(msgspec.structs.replace(study_result(), chosen=None))["profile"] is None


def test_a_replay_proves_nothing() -> None:
    replay = msgspec.structs.replace(study_result(), soaks=(), soaked_knobs=(), profile=None, model=None)
    found = tune_json(replay)
    assert found["profile"]["proven"] is False
    assert found["profile"]["soak_s"] == 0
    assert found["model"] is None


def test_what_the_engine_decides_is_null() -> None:
    baseline = Baseline(name="engine", knobs=AUTO, record=None, why="not asked for")
    found = tune_json(msgspec.structs.replace(study_result(), baselines=(baseline,)))["baselines"][0]
    assert found["knobs"]["gpu_layers"] is None
    assert found["reason"] == "not asked for"


def test_what_the_server_could_do_and_the_house_ratio_are_fields() -> None:
    found = tune_json(study_result())
    assert (found["house_ratio"], found["server_level"]) == (None, [])
    row = {
        "factor": "fit_target",
        "env": {"LLAMA_ARG_FIT_TARGET": "256"},
        "over": "Ollama's own placement",
        "gain": 1.5,
        "why": "it leaves more free than is needed",
        "cost": "it counts for every model",
    }
    told = msgspec.structs.replace(study_result(), extra={"house_ratio": 3.1, "server_level": [row]})
    found = json.loads(json.dumps(tune_json(told)))
    assert found["house_ratio"] == 3.1
    assert found["server_level"][0]["env"] == {"LLAMA_ARG_FIT_TARGET": "256"}
    assert found["server_level"][0]["knobs"] is None
