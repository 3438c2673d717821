"""Every setting in order, most layers first: what a careful person does by hand."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Space
from narthex.trials.roofline import KV_BYTES
from narthex.trials.trial import TrialRecord


def propose(question: Question, space: Space, history: Sequence[TrialRecord]) -> Proposal | Stop:
    """The first setting of the grid that has not been tried."""
    tried = {record.trial.knobs for record in history}
    left = [candidate.knobs for candidate in space.candidates if candidate.knobs not in tried]
    if not left:
        return Stop(why="Every setting has been tried.")
    best = min(
        left,
        key=lambda k: (-(k.gpu_layers or 0), -KV_BYTES.get(k.kv_type, 0), k.flash_attn == "off", k.ubatch),
    )
    return Proposal(knobs=best, why="next of the grid")
