"""What «best» means, as one figure: the utility of a setting, in logarithms, so that 0.02 is 2 %.

``fastest``: the turn time alone; the context counts for less than the 2 % of a tie, so it only breaks ties.
``longest``: the context, as long as decoding keeps the speed asked for.
``balanced``: the knee of the Pareto front of turn time and context: the point from which doubling the
context would cost more than an eighth of turn time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log2

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.records import Goal, Question
from narthex.trials.trial import TrialRecord, Turn
from narthex.trials.verdict import TIE

DOUBLING = log(1.125)  # balanced: twice the context is worth an eighth more turn time
LEAST_DECODE_TPS = 10.0  # longest, where no speed is asked for: about as fast as people read
_TIE_BREAK = 0.9 * TIE  # what all of the context range is worth under «fastest»
_TOO_SLOW = -20.0  # longest: below every setting that is fast enough


def utility(question: Question, knobs: KnobValues, turn_s: float, decode_tps: float) -> float:
    """How good a setting is: larger is better. A difference of 0.02 is 2 % of turn time."""
    floor = question.min_ctx or knobs.num_ctx
    doublings = log2(max(knobs.num_ctx, 1) / max(floor, 1))
    if question.goal is Goal.FASTEST:
        return -log(turn_s) + _TIE_BREAK * min(doublings / 8, 1.0)
    if question.goal is Goal.BALANCED:
        return -log(turn_s) + DOUBLING * doublings
    least = question.min_decode_tps or LEAST_DECODE_TPS
    if decode_tps < least:
        return _TOO_SLOW + log(decode_tps / least)
    return doublings - 0.05 * log(turn_s)


def measured_utility(question: Question, record: TrialRecord) -> float | None:
    """The utility of a finished trial; None where it failed, was not timed, or has too little context."""
    speeds = turn_speeds(record, question.turn)
    if speeds is None:
        return None
    if question.min_ctx and record.trial.knobs.num_ctx < question.min_ctx:
        return None
    return utility(question, record.trial.knobs, speeds[0], speeds[1])


def turn_speeds(record: TrialRecord, turn: Turn) -> tuple[float, float, float] | None:
    """(turn_s, decode_tps, prompt_tps) at a turn, also of a trial that generated fewer tokens."""
    observation = record.observation
    if observation.outcome is not Outcome.DONE or not observation.decode_tps or not observation.prompt_tps:
        return None
    if record.trial.turn == turn and observation.turn_s is not None:
        return observation.turn_s, observation.decode_tps, observation.prompt_tps
    seconds = turn.prompt_tokens / observation.prompt_tps + turn.generate / observation.decode_tps
    return seconds, observation.decode_tps, observation.prompt_tps


def best_record(question: Question, history: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best finished trial so far; on equal utility the earlier one."""
    best: tuple[float, TrialRecord] | None = None
    for record in history:
        value = measured_utility(question, record)
        if value is not None and (best is None or value > best[0]):
            best = (value, record)
    return best[1] if best else None


def pareto_front(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The (turn_s, num_ctx) points that no other beats in both, fastest first."""
    front: list[tuple[float, int]] = []
    for turn_s, num_ctx in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or num_ctx > front[-1][1]:
            front.append((turn_s, num_ctx))
    return front
