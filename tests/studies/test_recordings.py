"""Recordings of other models and cards, modelled in the form of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from narthex.outcomes import Outcome
from narthex.studies.records import Goal, Question, StudyResult
from narthex.studies.replaying import replay
from narthex.testing.modelled_recordings import DEPTH, FAMILIES, STYLES, modelled_recording, smaller
from narthex.testing.study_builders import best_turn_s
from narthex.trials.replay import Recording, read_recording
from narthex.trials.trial import Turn

ASKED = Question(goal=Goal.FASTEST, allow_kv=("f16", "q8_0", "q4_0"))
SEEDS = range(4)


def near(recording: Recording, share: float, turn: Turn) -> bool:
    result = replay(recording, msgspec.structs.replace(ASKED, turn=turn))
    assert result.engine_loads <= 6
    return turn_s(result) <= share * best_turn_s(recording, turn)


def turn_s(result: StudyResult) -> float:
    times = [r.observation.turn_s for r in result.trials if r.trial.knobs == result.chosen]
    return times[0] or float("inf") if times else float("inf")


def turn_of(family: str) -> Turn:
    return Turn(depth=0 if family == "depth 0 only" else DEPTH)


def test_most_recordings_of_any_kind_end_within_3_percent() -> None:
    found = [near(modelled_recording(n, kind), 1.03, turn_of(kind)) for kind in FAMILIES for n in SEEDS]
    assert sum(found) >= 0.8 * len(found)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "f16 fails, rest stays"])
def test_most_smaller_cards_end_within_10_percent_however_failures_are_written(style: str) -> None:
    found = [
        near(smaller(modelled_recording(seed, kind), 1 + seed % 3, DEPTH, style), 1.10, turn_of(kind))
        for kind in ("roomy", "tight", "mixture", "slow card")
        for seed in SEEDS
        if len(settings_left(modelled_recording(seed, kind))) > 1 + seed % 3
    ]
    assert sum(found) >= 0.8 * len(found)


def settings_left(recording: Recording) -> set[int]:
    return {point.gpu_layers for point in recording.points if point.depth == DEPTH}


def test_a_recording_where_every_point_failed_recommends_nothing_and_says_why() -> None:
    whole = modelled_recording(1, "roomy")
    layers = len(settings_left(whole))
    failed = msgspec.structs.replace(smaller(whole, layers, DEPTH, "all lists"), points=())
    result = replay(failed, ASKED)
    assert result.chosen is None
    assert "out of memory" in result.verdict
    assert 1 <= result.engine_loads <= 6
    assert all(record.observation.outcome is Outcome.OUT_OF_MEMORY for record in result.trials)


def test_whole_numbers_lists_and_unknown_keys_are_read(tmp_path: Path) -> None:
    point = {"gpu_layers": 9, "ubatch": 512, "depth": 3072, "prompt_tps": 1000, "decode_tps": 50, "note": "x"}
    body = {
        "model": "m",
        "points": [point],
        "failures": [{"gpu_layers": [10, 11], "kv_type": ["f16"], "ubatches": 512, "depths": 3072}],
        "more": {},
    }
    path = tmp_path / "r.json"
    path.write_text(json.dumps(body))
    result = replay(read_recording(path), ASKED)
    assert result.chosen is not None
    assert result.chosen.gpu_layers == 9
