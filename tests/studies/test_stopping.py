"""A study stops when nothing is worth a load."""

from __future__ import annotations

import pytest

from narthex.outcomes import Outcome
from narthex.studies.stopping import hopeless, nothing_better, out_of_loads
from narthex.testing.study_builders import knobs, record


def test_a_hope_of_no_more_than_a_tie_ends_it() -> None:
    assert nothing_better(0.02)
    assert nothing_better(0.021) is None


def test_failed_loads_count() -> None:
    history = [record(knobs(33)), record(knobs(32), 4.0)]
    assert out_of_loads(history, 2)
    assert out_of_loads(history, 3) is None
    assert out_of_loads(history, None) is None


def test_no_setting_helps_a_damaged_file() -> None:
    stop = hopeless([record(knobs(33), outcome=Outcome.CORRUPT_FILE, reason="tensor data out of bounds")])
    assert stop is not None
    assert "damaged" in stop.why
    assert "out of bounds" in stop.why


def test_the_same_crash_three_times_ends_it() -> None:
    crashes = [record(knobs(n), outcome=Outcome.CRASHED, reason="SIGSEGV") for n in (33, 32, 31)]
    assert hopeless(crashes[:2]) is None
    assert hopeless(crashes)


def test_running_out_of_memory_again_and_again_does_not() -> None:
    assert hopeless([record(knobs(n)) for n in (33, 32, 31, 30)]) is None


def test_crashes_after_a_success_do_not_end_it() -> None:
    crashes = [record(knobs(n), outcome=Outcome.CRASHED, reason="SIGSEGV") for n in (33, 32, 31)]
    assert hopeless([record(knobs(20), 5.0), *crashes]) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.MODEL_UNKNOWN,
        Outcome.FILE_MISSING,
        Outcome.CORRUPT_FILE,
        Outcome.UNSUPPORTED_ARCHITECTURE,
        Outcome.DISK_FULL,
    ],
)
def test_what_no_setting_can_help_ends_it_at_once(outcome: Outcome) -> None:
    stop = hopeless([record(knobs(33), outcome=outcome, reason="the line")])
    assert stop is not None
    assert "the line" in stop.why


def test_a_server_that_is_busy_with_others_ends_it_even_after_a_success() -> None:
    busy = [record(knobs(n), outcome=Outcome.QUEUE_FULL, reason="server busy") for n in (33, 32, 31)]
    assert hopeless([record(knobs(20), 5.0), *busy[:2]]) is None
    stop = hopeless([record(knobs(20), 5.0), *busy])
    assert stop is not None
    assert "server busy" in stop.why
