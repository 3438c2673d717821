"""What «best» means for each goal."""

from __future__ import annotations

from narthex.studies.objective import best_record, pareto_front, turn_speeds, utility
from narthex.studies.records import Goal
from narthex.testing.study_builders import knobs, question, record
from narthex.trials.trial import Turn


def test_fastest_is_the_least_turn_time() -> None:
    slow, fast = record(knobs(30), 6.0), record(knobs(33), 4.0)
    assert best_record(question(), [slow, fast]) is fast


def test_within_a_tie_the_larger_context_wins() -> None:
    small, large = record(knobs(33), 4.0), record(knobs(33, num_ctx=16384), 4.01)
    assert best_record(question(), [small, large]) is large


def test_a_context_never_outweighs_more_than_a_tie() -> None:
    small, huge = record(knobs(33), 4.0), record(knobs(33, num_ctx=1_048_576), 4.09)
    assert best_record(question(), [small, huge]) is small


def test_less_context_than_asked_for_is_no_answer() -> None:
    assert best_record(question(min_ctx=8192), [record(knobs(33, num_ctx=4096), 1.0)]) is None


def test_longest_keeps_the_speed_asked_for() -> None:
    asked = question(goal=Goal.LONGEST, min_decode_tps=50.0)
    quick = record(knobs(33, num_ctx=8192), 4.0)  # 256 / 3.8 = 67 tokens/s
    slow = record(knobs(20, num_ctx=32768), 12.0)
    assert best_record(asked, [quick, slow]) is quick
    assert best_record(question(goal=Goal.LONGEST, min_decode_tps=10.0), [quick, slow]) is slow


def test_balanced_pays_an_eighth_for_twice_the_context_and_no_more() -> None:
    asked = question(goal=Goal.BALANCED)
    base = record(knobs(33, num_ctx=4096), 4.0)
    worth_it = record(knobs(33, num_ctx=8192), 4.4)
    too_dear = record(knobs(30, num_ctx=8192), 4.6)
    assert best_record(asked, [base, worth_it]) is worth_it
    assert best_record(asked, [base, too_dear]) is base


def test_a_failed_trial_is_never_the_best() -> None:
    assert best_record(question(), [record(knobs(33))]) is None


def test_a_trial_of_fewer_tokens_is_compared_at_the_studys_turn() -> None:
    short = Turn(generate=64)
    few = record(knobs(19), 10.0, turn=short)
    speeds = turn_speeds(few, Turn())
    assert speeds is not None
    assert speeds[0] == 512 / speeds[2] + 256 / speeds[1]


def test_the_pareto_front_holds_what_no_other_beats() -> None:
    points = [(4.0, 4096), (4.4, 8192), (4.5, 6144), (9.0, 8192), (12.0, 32768)]
    assert pareto_front(points) == [(4.0, 4096), (4.4, 8192), (12.0, 32768)]


def test_a_difference_of_two_hundredths_is_two_percent() -> None:
    gain = utility(question(), knobs(33), 4.0, 60.0) - utility(question(), knobs(33), 4.0 * 1.0202, 60.0)
    assert abs(gain - 0.02) < 1e-3
