"""When to stop: nothing left can be better by more than 2 %, the loads are used up, or nothing can work."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.outcomes import Outcome
from narthex.studies.records import Stop
from narthex.trials.trial import TrialRecord
from narthex.trials.verdict import TIE
from narthex.units import format_loads

WORTH = TIE  # gains below this are a tie
LEAST_CHANCE = 0.12  # settings less likely to fit than this are not worth a load
_HOPELESS = {
    Outcome.CORRUPT_FILE: "the model file is damaged",
    Outcome.UNSUPPORTED_ARCHITECTURE: "the engine does not know this kind of model",
}
_SAME_FAILURES = 3


def loads_of(history: Sequence[TrialRecord]) -> int:
    """Engine loads that a history cost; failed loads count."""
    return sum(record.observation.counts_as_load for record in history)


def out_of_loads(history: Sequence[TrialRecord], max_loads: int | None) -> Stop | None:
    """Stop where the loads allowed are used up."""
    used = loads_of(history)
    if max_loads is None or used < max_loads:
        return None
    return Stop(why=f"All loads that the study may take are used: {format_loads(max_loads)}.")


def hopeless(history: Sequence[TrialRecord]) -> Stop | None:
    """Stop where no setting can help: the file or the model kind, or one failure again and again."""
    for record in history:
        if why := _HOPELESS.get(record.observation.outcome):
            return Stop(why=f"No setting can help: {why} ({record.observation.reason}).")
    if len(history) < _SAME_FAILURES or any(r.observation.outcome is Outcome.DONE for r in history):
        return None
    newest = history[-_SAME_FAILURES:]
    outcomes = {record.observation.outcome for record in newest}
    if len(outcomes) == 1 and not newest[-1].observation.outcome.is_memory:
        outcome = newest[-1].observation.outcome
        if outcome is not Outcome.FAILED:
            word = outcome.value.replace("_", " ")
            return Stop(why=f"{_SAME_FAILURES} settings ended the same way ({word}), and none worked.")
    return None


def nothing_better(optimistic_gain: float) -> Stop | None:
    """Stop where the best that could be hoped for gains no more than a tie.

    ``optimistic_gain``: a difference of utility, one standard deviation to the good.
    """
    if optimistic_gain > WORTH:
        return None
    return Stop(why=f"Nothing left can be better by more than {WORTH:.0%}.")
