"""Confirmation: the winner against the best baseline, A/B/A/B, so that drift meets both alike."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.studies import stopping
from narthex.studies.conclusion import best_baseline, own_best
from narthex.studies.objective import turn_speeds
from narthex.studies.records import Baseline, Question
from narthex.studies.session import Session
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord

CONFIRM_LOADS = 4  # A/B/A/B
WIDE_GAP = 1.5  # a rival this much slower is not made better by more repeats


def confirm(session: Session, space: Space, baselines: Sequence[Baseline]) -> None:
    """Load both again in turn, as often as loads are left."""
    question, history = session.question, session.history
    winner = own_best(question, space, history)
    rival = best_baseline(question, space, baselines)
    if winner is None or rival is None or winner.trial.knobs == rival.knobs:
        return
    if space.recorded:
        session.decide("confirm", "not repeated: a recording holds one value for each point")
        return
    left = (question.max_loads or 1000) - stopping.loads_of(history)
    rounds = min(CONFIRM_LOADS, left) // 2
    if rounds <= 0:
        session.decide("confirm", "not repeated: no loads are left")
        return
    session.decide(
        "confirm",
        f"{winner.trial.knobs.describe()} against «{rival.name}» ({rival.knobs.describe()}), "
        + "/".join("AB" * rounds),
        knobs=winner.trial.knobs,
    )
    repeats = _repeats(question, winner, rival)
    for number in range(1, rounds + 1):
        purpose = f"confirm:{number}"
        session.measure(rival.knobs, purpose, "confirm: A", repeats=repeats)
        session.measure(winner.trial.knobs, purpose, "confirm: B", repeats=repeats)


def _repeats(question: Question, winner: TrialRecord, rival: Baseline) -> int | None:
    """Two turns a load where the gap is far wider than chance: four of each tell how far chance goes."""
    ours = turn_speeds(winner, question.turn)
    other = turn_speeds(rival.record, question.turn) if rival.record else None
    wide = ours is not None and other is not None and other[0] > ours[0] * WIDE_GAP
    return min(2, question.repeats) if wide else None
