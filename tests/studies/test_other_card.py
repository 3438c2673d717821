"""What an answer would do on another card: predicted from the study's own trials."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from narthex.models.gguf import inspect_file
from narthex.studies.other_card import USUAL_SHARE, predict_turn_s
from narthex.testing.study_builders import knobs, machine, question, record, study
from narthex.trials.roofline import traffic
from narthex.units import GIB

FAST, SLOW = 3350e9, 360e9


def test_what_does_not_wait_for_memory_grows_no_slower(gemma: Path) -> None:
    inspection = inspect_file(gemma)
    result = study(question(), machine(gpu_free_bytes=24 * GIB))
    trial = record(knobs(19), 1.0)
    result = msgspec.structs.replace(result, trials=(trial,))
    found = predict_turn_s(result, inspection, knobs(19), here_bytes_s=FAST, there_bytes_s=SLOW)
    decode_tps, prompt_tps = trial.observation.decode_tps, trial.observation.prompt_tps
    assert decode_tps is not None
    assert prompt_tps is not None
    turn = result.question.turn
    expected = turn.generate / decode_tps + turn.prompt_tokens / prompt_tps * FAST / SLOW
    assert found == pytest.approx(expected, rel=0.05)


def test_a_memory_bound_card_reads_at_its_own_speed(gemma: Path) -> None:
    inspection = inspect_file(gemma)
    result = msgspec.structs.replace(study(question(), machine()), trials=(record(knobs(19), 1.0),))
    crawl = 1e9  # bytes a second: reading the weights takes longer than everything else
    found = predict_turn_s(result, inspection, knobs(19), here_bytes_s=FAST, there_bytes_s=crawl)
    depth = result.question.turn.depth + result.question.turn.prompt_tokens
    read_s = traffic(inspection, knobs(19), depth=depth).gpu_bytes / (USUAL_SHARE * crawl)
    assert found is not None
    assert found > result.question.turn.generate * read_s


def test_what_the_cpu_reads_stays(gemma: Path) -> None:
    inspection = inspect_file(gemma)
    result = study(question(), machine())
    result = msgspec.structs.replace(result, trials=(record(knobs(19), 1.0), record(knobs(5), 8.0)))
    found = predict_turn_s(result, inspection, knobs(5), here_bytes_s=FAST, there_bytes_s=SLOW)
    assert found is not None
    assert 8.0 < found < 8.0 * FAST / SLOW / 2


def test_without_a_finished_trial_nothing_is_predicted(gemma: Path) -> None:
    result = msgspec.structs.replace(study(question(), machine()), trials=())
    inspection = inspect_file(gemma)
    assert predict_turn_s(result, inspection, knobs(19), here_bytes_s=FAST, there_bytes_s=SLOW) is None
