"""``narthex tune`` as a person calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narthex.journal.journal import Journal
from narthex.profiles.store import list_profiles

NARTHEX = [sys.executable, "-m", "narthex", "tune"]
KNOBS = {"num_ctx", "gpu_layers", "batch", "ubatch", "kv_type", "flash_attn", "parallel", "threads"}


def tune(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NARTHEX, *map(str, words)], capture_output=True, text=True, timeout=280, check=False
    )


def recording(shared: Path, name: str = "deepseek-r1-32b") -> Path:
    return shared / "bench" / "replay" / f"{name}.json"


def test_a_replay_prints_the_fields_that_others_build_on(shared: Path) -> None:
    done = tune("--replay", recording(shared), "--goal", "fastest", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {
        "study",
        "goal",
        "model",
        "engine",
        "engine_loads",
        "seconds",
        "baselines",
        "profile",
        "trials",
    } <= set(answer)
    assert set(answer["profile"]["knobs"]) >= KNOBS
    assert answer["profile"]["proven"] is False
    assert answer["profile"]["soak_s"] == 0
    assert answer["profile"]["knobs"]["flash_attn"] == "on"
    assert {row["name"] for row in answer["baselines"]} == {"engine", "house"}
    assert all({"knobs", "outcome", "reason", "turn_s"} <= set(row) for row in answer["trials"])


def test_several_recordings_are_a_list(shared: Path) -> None:
    files = sorted((shared / "bench" / "replay").glob("*.json"))
    done = tune("--goal", "fastest", "--json", "--replay", *files)
    assert done.returncode == 0, done.stderr
    assert [answer["model"] for answer in json.loads(done.stdout)] == [path.stem for path in files]


def test_without_json_it_is_a_table(shared: Path) -> None:
    done = tune("--replay", recording(shared, "mistral-nemo-12b"), "--goal", "fastest")
    assert done.returncode == 0
    assert "mistral-nemo-12b" in done.stdout
    assert "narthex" in done.stdout


def test_what_you_run_now_can_be_a_baseline_of_a_replay(shared: Path) -> None:
    words = ["num_ctx=3840", "gpu_layers=60", "ubatch=256", "flash_attn=on", "threads=16"]
    current = [part for word in words for part in ("--current", word)]
    done = tune("--replay", recording(shared), "--goal", "fastest", "--json", *current)
    baselines = {row["name"]: row for row in json.loads(done.stdout)["baselines"]}
    assert baselines["current"]["turn_s"] == pytest.approx(12.8, abs=0.01)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Which model?"),
        (["--replay", "none.json"], "can't be read"),
        (["a.gguf", "b.gguf"], "One model at a time"),
        (["none.gguf"], "There is no model file"),
        (["--replay", "none.json", "--set", "gpu_layers"], "no KNOB=VALUE"),
        (["--replay", "x.json", "--ctx", "512"], "does not fit a context of 512"),
    ],
)
def test_nonsense_is_one_sentence_and_an_exit_code(words: list[str], sentence: str) -> None:
    done = tune(*words)
    assert done.returncode in (2, 3)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_where_nothing_worked_the_exit_code_says_so_and_the_json_is_still_there(tmp_path: Path) -> None:
    point = {"gpu_layers": 1, "ubatch": 64, "kv_type": "q4_0", "depth": 3072}
    failure = {"gpu_layers": [9, 8], "ubatches": [512], "depths": [3072], "stderr_tail": "out of memory"}
    speeds = {"prompt_tps": 1, "decode_tps": 1}
    path = tmp_path / "hopeless.json"
    path.write_text(json.dumps({"model": "toy", "points": [point | speeds], "failures": [failure]}))
    done = tune("--replay", path, "--json")
    assert done.returncode == 7
    assert json.loads(done.stdout)["profile"] is None


@pytest.mark.engine
@pytest.mark.slow
def test_a_real_study_ends_in_a_proven_profile(gemma: Path, engine_binary: Path) -> None:
    done = tune(gemma, "--demo", "--json", "--soak", "3s", "--max-loads", "6", "--engine-path", engine_binary)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["profile"]["proven"] is True
    assert answer["profile"]["soak_s"] >= 3
    assert answer["engine_loads"] <= 6
    with Journal.open() as journal:
        assert journal.study(answer["study"]).finished
        assert journal.predictions()
        (profile,) = list_profiles(journal)
    assert profile.demo
    assert profile.proven


@pytest.mark.engine
@pytest.mark.slow
def test_sigkill_and_start_again_goes_on(gemma: Path, engine_binary: Path) -> None:
    words = [str(gemma), "--demo", "--json", "--soak", "2s", "--max-loads", "5"]
    command = [*NARTHEX, *words, "--engine-path", str(engine_binary)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 120
        while not journaled() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(child.pid, signal.SIGKILL)
    before = journaled()
    assert before
    done = tune(*words, "--engine-path", engine_binary)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    purposes = [row["purpose"] for row in answer["trials"]]
    assert purposes.count("baseline:engine") == 1
    assert "resume" in {row["kind"] for row in answer["decisions"]}
    with Journal.open() as journal:
        assert len(journal.studies()) == 1


def journaled() -> int:
    """Trials in the journal so far."""
    with Journal.open() as journal:
        return sum(row.trials for row in journal.studies())
