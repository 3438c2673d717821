"""The figures that the search has to reach on recordings, and what a replay may not do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from narthex.errors import UsageError
from narthex.outcomes import Outcome
from narthex.paths import journal_path
from narthex.studies.records import Goal, Question, StudyResult
from narthex.studies.replaying import replay, replay_file
from narthex.testing.modelled_runner import ModelledMachine
from narthex.testing.study_builders import best_turn_s, smaller_card
from narthex.trials.replay import Point, Recording, read_recording
from narthex.trials.trial import Turn
from narthex.units import GIB

NAMES = ("deepseek-r1-32b", "mistral-nemo-12b", "qwen3-30b-a3b")
TEXTS = (
    "cudaMalloc failed: out of memory",
    "allocating 681.03 MiB on device 0: cudaMalloc failed: out of memory\n"
    "graph_reserve: failed to allocate compute buffers",
    "allocating 19000.00 MiB on device 0: cudaMalloc failed: out of memory\n"
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
)


@pytest.fixture(params=NAMES)
def recording(request: pytest.FixtureRequest, shared: Path) -> Recording:
    return read_recording(shared / "bench" / "replay" / f"{request.param}.json")


def chosen_turn_s(result: StudyResult) -> float:
    trials = [record for record in result.trials if record.trial.knobs == result.chosen]
    assert trials
    assert trials[0].observation.turn_s is not None
    return trials[0].observation.turn_s


def test_as_recorded_it_is_within_3_percent_of_the_best_after_6_loads(recording: Recording) -> None:
    result = replay(recording, Question(goal=Goal.FASTEST))
    assert result.engine_loads <= 6
    assert chosen_turn_s(result) <= 1.03 * best_turn_s(recording, Turn())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("removed", [1, 2, 3])
def test_on_a_smaller_card_it_is_within_10_percent_after_6_loads(
    recording: Recording, removed: int, text: str
) -> None:
    smaller = smaller_card(recording, removed, 3072, text)
    result = replay(smaller, Question(goal=Goal.FASTEST))
    assert result.engine_loads <= 6
    assert chosen_turn_s(result) <= 1.10 * best_turn_s(smaller, Turn())


def test_every_failed_load_is_shown_with_its_line(recording: Recording) -> None:
    result = replay(smaller_card(recording, 2, 3072), Question(goal=Goal.FASTEST))
    failed = [r.observation for r in result.trials if r.observation.outcome is not Outcome.DONE]
    assert failed
    assert all("out of memory" in observation.reason for observation in failed)


def test_only_recorded_settings_are_asked_for(recording: Recording) -> None:
    result = replay(recording, Question(goal=Goal.FASTEST))
    known = {recording.knobs(setting, result.chosen.num_ctx) for setting in recording.settings(3072)}  # type: ignore[union-attr]
    assert {record.trial.knobs for record in result.trials} <= known


def test_nothing_is_stored(recording: Recording) -> None:
    result = replay(recording, Question(goal=Goal.FASTEST))
    assert result.profile is None
    assert not result.soaks
    assert not journal_path().exists()


def test_the_engine_baseline_is_shown_but_not_compared(shared: Path) -> None:
    result = replay_file(shared / "bench" / "replay" / "deepseek-r1-32b.json", Question(goal=Goal.FASTEST))
    engine = next(row for row in result.baselines if row.name == "engine")
    assert engine.record is not None
    assert engine.record.observation.turn_s == pytest.approx(12.46, abs=0.01)
    assert "No baseline could be compared" in result.verdict


def test_the_house_defaults_are_measured_where_they_were_recorded(shared: Path) -> None:
    path = shared / "bench" / "replay" / "deepseek-r1-32b.json"
    at_start = replay_file(path, Question(goal=Goal.FASTEST, turn=Turn(depth=0)))
    house = next(row for row in at_start.baselines if row.name == "house")
    assert house.record is not None
    assert house.record.observation.turn_s == pytest.approx(56.168, abs=0.01)
    assert at_start.engine_loads <= 6


def test_a_turn_may_be_another(recording: Recording) -> None:
    turn = Turn(depth=0, prompt_tokens=256, generate=64)
    result = replay(recording, Question(goal=Goal.FASTEST, turn=turn))
    assert chosen_turn_s(result) <= 1.03 * best_turn_s(recording, turn)


def test_an_unrecorded_depth_names_the_recorded_ones(recording: Recording) -> None:
    with pytest.raises(UsageError, match="no point at depth 100") as caught:
        replay(recording, Question(turn=Turn(depth=100)))
    assert "3072" in caught.value.hint


def test_kv_types_below_q8_0_are_left_out_unless_allowed(recording: Recording) -> None:
    plain = replay(recording, Question(goal=Goal.FASTEST, max_loads=60))
    assert all(record.trial.knobs.kv_type != "q4_0" for record in plain.trials)


def test_where_every_setting_fails_nothing_is_recommended() -> None:
    recording = ModelledMachine(gpu_free_bytes=1 * GIB).recording((65, 64, 63))
    slow = Point(gpu_layers=2, ubatch=64, kv_type="q4_0", depth=3072, prompt_tps=1.0, decode_tps=1.0)
    only_failures = msgspec.structs.replace(recording, points=(slow,))  # a point that may not be used
    result = replay(only_failures, Question(goal=Goal.FASTEST))
    assert result.chosen is None
    assert "No trial succeeded" in result.verdict
    assert "out of memory" in result.verdict


@pytest.mark.parametrize("seed", range(8))
def test_fine_grids_and_noise_end_well_within_what_chance_would_give(seed: int) -> None:
    machine = ModelledMachine(noise=0.05, seed=seed, gpu_free_bytes=(9 + seed) * GIB)
    recording = machine.recording(tuple(range(66)), kv_types=("f16", "q8_0"))
    result = replay(recording, Question(goal=Goal.FASTEST))
    assert result.engine_loads <= 6
    assert chosen_turn_s(result) <= 1.5 * best_turn_s(recording, Turn())
