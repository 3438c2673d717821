"""What an answer would do on another card: predicted from the study's own trials."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from narthex.models.gguf import inspect_file
from narthex.studies.other_card import predict_turn_s
from narthex.testing.study_builders import knobs, machine, question, record, study
from narthex.units import GIB

FAST, SLOW = 3350e9, 360e9


def test_all_on_the_card_scales_with_its_bandwidth(gemma: Path) -> None:
    inspection = inspect_file(gemma)
    result = study(question(), machine(gpu_free_bytes=24 * GIB))
    result = msgspec.structs.replace(result, trials=(record(knobs(19), 1.0),))
    found = predict_turn_s(result, inspection, knobs(19), here_bytes_s=FAST, there_bytes_s=SLOW)
    assert found == pytest.approx(FAST / SLOW, rel=0.02)


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
