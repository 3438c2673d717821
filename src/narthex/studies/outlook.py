"""``Known``: what a study has learned, and the best that its space holds under other limits of the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.studies.cost_model import CostModel
from narthex.studies.feasibility import Feasibility
from narthex.studies.live_space import Machine, live_space
from narthex.studies.objective import best_record, turn_speeds, utility
from narthex.studies.records import Question
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord

WORTH = 0.05  # a restart of everyone's server has to bring more than a single load
LIKELY = 0.5  # what is predicted fits rather than not
EVERYONE = "It counts for every model of this server."


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """The best setting of a space, measured or predicted. ``sigma``: how far the turn time may be off, as
    the standard deviation of its logarithm; 0 where it was measured."""

    knobs: KnobValues
    turn_s: float
    utility: float
    sigma: float = 0.0
    layers: int | None  # on the GPU; None where an engine placed them and did not tell


class Known:
    """What a study has learned of a model on a machine, as far as proposals need it.

    ``machine`` holds the server's limits and the calibration.
    """

    def __init__(
        self,
        inspection: Inspection,
        machine: Machine,
        question: Question,
        history: Sequence[TrialRecord],
        space: Space | None = None,
    ) -> None:
        """``space``: the study's own, where it is made already."""
        self.inspection = inspection
        self.machine = machine
        self.question = question
        self.history = tuple(history)
        self._made = space

    @cached_property
    def space(self) -> Space:
        """The settings that the machine has room for."""
        return self._made or live_space(self.inspection, self.machine, self.question)

    @cached_property
    def model(self) -> CostModel:
        """The cost model of the trials."""
        return CostModel.of(self.question.turn, self.space, self.history)

    @cached_property
    def measured(self) -> Outlook | None:
        """The best setting that ran, the engine's own placement counted."""
        best = best_record(self.question, self.space.comparable(self.history))
        speeds = turn_speeds(best, self.question.turn) if best else None
        if best is None or speeds is None:
            return None
        knobs, report = best.trial.knobs, best.observation.report
        layers = knobs.gpu_layers
        if layers is None and report is not None and not report.splits_layers:
            layers = report.offloaded_layers
        value = utility(self.question, knobs, speeds[0], speeds[1])
        return Outlook(knobs=knobs, turn_s=speeds[0], utility=value, layers=layers)

    @cached_property
    def predicted(self) -> Outlook | None:
        """The best setting by the cost model among those likely to fit; None before anything ran."""
        if not self.model.samples:
            return None
        feasibility = Feasibility(self.space, self.history, lambda row: self.model.predict(row).turn_s)
        rows = []
        for candidate in self.space.candidates:
            told = self.model.predict(candidate)
            value = utility(self.question, candidate.knobs, told.turn_s, told.decode_tps)
            rows.append((value, told, candidate))
        for value, told, candidate in sorted(rows, key=lambda row: -row[0]):
            if feasibility.chance(candidate) >= LIKELY:
                return Outlook(
                    knobs=candidate.knobs,
                    turn_s=told.turn_s,
                    utility=value,
                    sigma=told.sigma,
                    layers=candidate.knobs.gpu_layers,
                )
        return None

    def under(self, fixed: dict[str, Any]) -> Known:
        """The same with knobs that the server would fix at other values."""
        machine, question = self.machine, self.question
        limits = msgspec.structs.replace(machine.limits, fixed={**machine.limits.fixed, **fixed})
        return Known(
            self.inspection,
            msgspec.structs.replace(machine, limits=limits),
            msgspec.structs.replace(
                question,
                parallel=fixed.get("parallel", question.parallel),
                pins={name: value for name, value in question.pins.items() if name not in fixed},
            ),
            self.history,
        )
