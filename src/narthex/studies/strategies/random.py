"""Settings in random order, by the seed: the yardstick for every other strategy."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord


def propose(question: Question, space: Space, history: Sequence[TrialRecord]) -> Proposal | Stop:
    """The next setting of a shuffled list."""
    order = [candidate.knobs for candidate in space.candidates]
    Random(question.seed).shuffle(order)
    tried = {record.trial.knobs for record in history}
    left = [knobs for knobs in order if knobs not in tried]
    if not left:
        return Stop(why="Every setting has been tried.")
    return Proposal(knobs=left[0], why="next of the shuffled list")
