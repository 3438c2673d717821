"""Optuna's tree-structured Parzen estimator, as a yardstick and for those who know it.

Optuna's study is rebuilt from the history on every call, so this stays a pure function of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narthex.studies.objective import measured_utility
from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord

_KNOBS = ("gpu_layers", "ubatch", "kv_type", "flash_attn", "num_ctx", "threads", "cpu_moe")
_FAILED = -50.0  # utility of a failure: far below any turn time's logarithm
_DRAWS = 64  # draws until one names a setting of the list that has not been tried


def propose(question: Question, space: Space, history: Sequence[TrialRecord]) -> Proposal | Stop:
    """What TPE would try next."""
    optuna = _optuna()
    tried = {record.trial.knobs for record in history}
    left = [candidate.knobs for candidate in space.candidates if candidate.knobs not in tried]
    if not left:
        return Stop(why="Every setting has been tried.")
    choices = {
        name: optuna.distributions.CategoricalDistribution(values)
        for name in _KNOBS
        if len(values := sorted({getattr(c.knobs, name) for c in space.candidates}, key=str)) > 1
    }
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=question.seed + len(history))
    )
    for record in space.comparable(history):
        study.add_trial(_trial(optuna, question, record, choices))
    for _ in range(_DRAWS):
        drawn = study.ask(choices).params
        for knobs in left:
            if all(getattr(knobs, name) == value for name, value in drawn.items()):
                return Proposal(knobs=knobs, why="drawn by TPE")
    return Proposal(knobs=left[0], why="TPE drew nothing new: the first one left")


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _trial(optuna: Any, question: Question, record: TrialRecord, choices: dict[str, Any]) -> Any:
    value = measured_utility(question, record)
    knobs = record.trial.knobs
    params = {
        name: getattr(knobs, name)
        for name, choice in choices.items()
        if getattr(knobs, name) in choice.choices
    }
    return optuna.trial.create_trial(
        params=params,
        distributions={name: choices[name] for name in params},
        value=_FAILED if value is None else value,
    )
