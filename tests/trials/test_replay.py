"""A recording answers trials like an engine would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.trials.replay import ReplayRunner, read_recording
from narthex.trials.trial import ModelRef, Trial, Turn

TEXT = """ggml_cuda_init: found 1 CUDA devices
allocating 681.03 MiB on device 0: cudaMalloc failed: out of memory
graph_reserve: failed to allocate compute buffers
"""
RECORDING = {
    "model": "toy",
    "gpu_free_mib": 1000,
    "cpu_threads": 8,
    "points": [
        {"gpu_layers": 9, "ubatch": 512, "kv_type": "f16", "flash_attn": True, "depth": 3072,
         "prompt_tps": 1024.0, "decode_tps": 64.0},
        {"gpu_layers": 9, "ubatch": 256, "kv_type": "f16", "flash_attn": False, "depth": 0,
         "prompt_tps": 512.0, "decode_tps": 32.0},
    ],
    "failures": [
        {"gpu_layers": 9, "kv_type": "f16", "flash_attn": True, "ubatches": [512, 1024], "depths": [3072],
         "completed": 1, "exit_code": 1, "stderr_tail": TEXT},
    ],
    "engine_default": [
        {"ctx": 4096, "args": "-c 4096 -ngl 7", "offloaded": "offloaded 8/9", "prompt_tps": 500.0,
         "decode_tps": 20.0},
        {"ctx": 8192, "args": "-c 8192 -ngl 6", "offloaded": None, "prompt_tps": None, "decode_tps": None},
    ],
}  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path) -> ReplayRunner:
    return ReplayRunner(read_recording(write(tmp_path, RECORDING)))


def write(folder: Path, body: object) -> Path:
    path = folder / "recording.json"
    path.write_text(json.dumps(body))
    return path


def trial(depth: int = 3072, **knobs: object) -> Trial:
    values = KnobValues(num_ctx=3840, flash_attn="on", threads=8).with_(**knobs)
    return Trial(
        model=ModelRef(path="", identity="toy", name="toy"),
        engine_key="e",
        host_key="h",
        knobs=values,
        turn=Turn(depth=depth),
    )


def quiet(stage: str, share: float | None) -> None:
    return None


def test_a_point_is_a_turn_of_the_length_asked_for(runner: ReplayRunner) -> None:
    answer = runner.run(trial(gpu_layers=9, ubatch=512), quiet)
    assert answer.outcome is Outcome.DONE
    assert answer.turn_s == pytest.approx(512 / 1024 + 256 / 64)


def test_a_recorded_bool_is_the_word_of_the_knob(runner: ReplayRunner) -> None:
    asked = trial(depth=0, gpu_layers=9, ubatch=256, flash_attn="off")
    assert runner.run(asked, quiet).outcome is Outcome.DONE


def test_a_measured_point_counts_even_where_a_failure_lists_it(runner: ReplayRunner) -> None:
    assert runner.run(trial(gpu_layers=9, ubatch=512), quiet).outcome is Outcome.DONE


def test_a_setting_inside_a_failures_lists_is_that_failure_with_its_proof(runner: ReplayRunner) -> None:
    answer = runner.run(trial(gpu_layers=9, ubatch=1024), quiet)
    assert answer.outcome is Outcome.OUT_OF_MEMORY
    assert "cudaMalloc failed" in answer.reason
    assert "compute buffers" in answer.reason
    assert answer.requested_bytes == int(681.03 * 2**20)


def test_what_was_never_measured_cannot_be_asked_for(runner: ReplayRunner) -> None:
    answer = runner.run(trial(gpu_layers=5), quiet)
    assert answer.outcome is Outcome.UNSUPPORTED_SETTING
    assert not answer.counts_as_load


def test_a_repeat_of_a_point_costs_no_load(runner: ReplayRunner) -> None:
    asked = trial(gpu_layers=9, ubatch=512)
    assert [runner.run(asked, quiet).counts_as_load for _ in range(3)] == [True, False, False]


def test_a_failed_load_counts(runner: ReplayRunner) -> None:
    assert runner.run(trial(gpu_layers=9, ubatch=1024), quiet).counts_as_load


def test_the_engines_own_placement_costs_no_load_and_tells_its_layers(runner: ReplayRunner) -> None:
    answer = runner.run(trial(gpu_layers=None), quiet)
    assert answer.turn_s == pytest.approx(512 / 500 + 256 / 20)
    assert answer.report is not None
    assert (answer.report.offloaded_layers, answer.report.total_layers) == (8, 9)
    assert not answer.counts_as_load


def test_a_placement_without_speeds_is_no_answer(runner: ReplayRunner) -> None:
    answer = runner.run(trial(gpu_layers=None, num_ctx=8192), quiet)
    assert answer.outcome is Outcome.UNSUPPORTED_SETTING


def test_a_recording_may_leave_out_what_it_does_not_know(tmp_path: Path) -> None:
    bare = {"model": "toy", "points": RECORDING["points"], "failures": None, "engine_default": None}
    recording = read_recording(write(tmp_path, bare))
    assert recording.all_layers == 9
    assert recording.placement(1) is None


@pytest.mark.parametrize(
    "body",
    [[], {"model": "x"}, {"model": "x", "points": 3}, {"model": "x", "points": [{"gpu_layers": 1}]}],
)
def test_another_file_is_one_clear_sentence(tmp_path: Path, body: object) -> None:
    with pytest.raises(UsageError, match="is not a recording"):
        read_recording(write(tmp_path, body))


def test_a_speed_of_zero_is_refused(tmp_path: Path) -> None:
    broken = json.loads(json.dumps(RECORDING))
    broken["points"][0]["decode_tps"] = 0
    with pytest.raises(UsageError, match="not above 0"):
        read_recording(write(tmp_path, broken))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_recording(tmp_path / "none.json")


def test_the_shared_recordings_can_be_read(shared: Path) -> None:
    for path in sorted((shared / "bench" / "replay").glob("*.json")):
        assert read_recording(path).points
