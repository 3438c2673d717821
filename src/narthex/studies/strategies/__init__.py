"""Strategies: which setting to try next. Each is a pure function of question, space and history.

A strategy is a module with one function ``propose(question, space, history) -> Proposal | Stop``.
To add one: write the module and add its row here; ``tests/studies/strategies`` holds it to the contract.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Protocol

from narthex.errors import UsageError
from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord

STRATEGIES: dict[str, str] = {
    "guided": "Led by the memory plan and a cost model that learns from each load (the default).",
    "grid": "Every setting in order: most layers first.",
    "random": "Settings in random order, by the seed.",
    "tpe": "Optuna's tree-structured Parzen estimator; needs the «search» extra.",
}


class Propose(Protocol):
    """The one function of a strategy. The same arguments give the same answer."""

    def __call__(
        self, question: Question, space: Space, history: Sequence[TrialRecord]
    ) -> Proposal | Stop: ...


def strategy(name: str) -> Propose:
    """A strategy by name. Raises UsageError for one that is not in the table."""
    if name not in STRATEGIES:
        raise UsageError(
            f"There is no strategy «{name}».", hint="Strategies are: " + ", ".join(STRATEGIES) + "."
        )
    if name == "tpe" and importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "The strategy «tpe» needs Optuna, which is not installed.",
            hint="pip install optuna, or use --strategy guided.",
        )
    module = importlib.import_module(f"narthex.studies.strategies.{name}")
    found: Propose = module.propose
    return found
