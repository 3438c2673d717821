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
_BROKEN = {
    Outcome.CORRUPT_FILE: "the model file is damaged",
    Outcome.FILE_MISSING: "the model file is gone",
    Outcome.MODEL_UNKNOWN: "the server has no such model",
    Outcome.UNSUPPORTED_ARCHITECTURE: "the engine does not know this kind of model",
    Outcome.DISK_FULL: "the disk is full",
}
OTHERS = frozenset({Outcome.QUEUE_FULL, Outcome.CLIENT_GONE})
"""Failures that say nothing about the setting: the server was busy, or the wait for a load was cut off."""
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


def broken(outcome: Outcome) -> str | None:
    """Why no setting can help after this outcome; None where one may."""
    return _BROKEN.get(outcome)


def hopeless(history: Sequence[TrialRecord]) -> Stop | None:
    """Stop where no setting can help: the file, the server, or one failure again and again."""
    for record in history:
        if why := broken(record.observation.outcome):
            return Stop(why=f"No setting can help: {why} ({record.observation.reason}).")
    newest = history[-_SAME_FAILURES:]
    if len(newest) < _SAME_FAILURES:
        return None
    outcome, reason = newest[-1].observation.outcome, newest[-1].observation.reason
    if all(record.observation.outcome in OTHERS for record in newest):
        return Stop(why=f"The server has other things to do: {_SAME_FAILURES} times in a row {reason}.")
    if any(record.observation.outcome is Outcome.DONE for record in history):
        return None
    same = all(record.observation.outcome is outcome for record in newest)
    if same and not outcome.is_memory and outcome is not Outcome.FAILED:
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
