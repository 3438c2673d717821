"""How likely a setting fits into memory, from the plan where there is one and from what has been tried.

A setting that needs at least as much of everything as a failed one fails too; one that needs no more than a
good one fits. For the rest: with a plan the unknown is one figure, how much memory the engine really gets.
The plan's own limit is the prior, a good load raises what is known to be there and a failed one caps it.
Without a plan :mod:`narthex.studies.edge` weighs guesses of the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import erf, log, sqrt

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.edge import Edge
from narthex.studies.space import Candidate, Space
from narthex.trials.roofline import KV_BYTES
from narthex.trials.trial import TrialRecord
from narthex.units import MIB

PLAN_SIGMA_BYTES = 96 * MIB  # how far a plan may be off: the planner's own bound on recorded loads
_CONTRADICTED = 1e-3  # what is left of the plan's own distribution
_DISGUISED = frozenset({Outcome.RUNNER_DIED, Outcome.SERVER_DOWN, Outcome.LOAD_TIMEOUT})
_SAME_FEATURES = 0.1  # a combination of KV type and flash attention that the engine refused


class Feasibility:
    """Chances under one history. ``turn_s`` gives the cost model's prediction for a candidate."""

    def __init__(
        self, space: Space, history: Sequence[TrialRecord], turn_s: Callable[[Candidate], float]
    ) -> None:
        self._space = space
        self._turn_s = turn_s
        done = [record for record in history if record.observation.outcome is Outcome.DONE]
        explicit = [record for record in history if record.trial.knobs.gpu_layers is not None]
        self._good = [record.trial.knobs for record in done if record.trial.knobs.gpu_layers is not None]
        self._placed = [placed for record in done if (placed := _placed(record))]
        self._failed = [record for record in explicit if is_short_of_memory(record, explicit)]
        self._refused = {
            (record.trial.knobs.kv_type, record.trial.knobs.flash_attn)
            for record in explicit
            if record.observation.outcome in (Outcome.UNSUPPORTED_SETTING, Outcome.CRASHED)
        }

    def chance(self, candidate: Candidate) -> float:
        """The chance in 0…1 that this setting loads and computes."""
        knobs = candidate.knobs
        refused = (knobs.kv_type, knobs.flash_attn) in self._refused
        return self._memory_chance(candidate) * (_SAME_FEATURES if refused else 1.0)

    def _memory_chance(self, candidate: Candidate) -> float:
        knobs = candidate.knobs
        if any(needs_as_much(knobs, record.trial.knobs) for record in self._failed):
            return 0.0
        if any(needs_as_much(good, knobs) for good in self._good):
            return 1.0
        if candidate.need_bytes is not None and candidate.limit_bytes is not None:
            planned = self._planned(candidate.need_bytes, candidate.limit_bytes)
            if planned is not None:
                return planned
            if not self._space.recorded:
                return (self._within_gap(candidate.need_bytes) + self._edge.chance(knobs)) / 2
        return self._edge.chance(knobs)

    @cached_property
    def _known(self) -> tuple[float, float]:
        """The most that is known to be there, and the least that is known to be too much, in plan bytes."""
        by_knobs = {candidate.knobs: candidate.need_bytes for candidate in self._space.candidates}
        # Without a layer on the GPU the plan is an upper bound: not every backend fetches weights to it.
        good = [need for knobs in self._good if knobs.gpu_layers and (need := by_knobs.get(knobs))]
        bad = [need for record in self._failed if (need := by_knobs.get(record.trial.knobs))]
        return float(max(good, default=0)), float(min(bad, default=float("inf")))

    def _planned(self, need: int, limit: int) -> float | None:
        """The chance by the plan; None where what was tried contradicts it."""
        low, high = self._known
        if low >= high:
            return None
        if need <= low:
            return 1.0
        if need >= high:
            return 0.0

        def below(value: float) -> float:
            return 0.5 * (1 + erf((value - limit) / (PLAN_SIGMA_BYTES * sqrt(2))))

        ceiling = below(high) if high != float("inf") else 1.0
        mass = ceiling - (below(low) if low else 0.0)
        if mass < _CONTRADICTED:
            return None
        return (ceiling - below(need)) / mass

    def _within_gap(self, need: int) -> float:
        """The plan's limit is wrong, but its sizes may be right: anywhere between known and too much."""
        low, high = self._known
        return (high - need) / (high - low) if low <= need < high < float("inf") else 0.5

    @cached_property
    def _edge(self) -> Edge:
        return Edge(
            all_layers=self._space.all_layers,
            min_ctx=self._space.min_ctx,
            log_time=self._log_time,
            good=self._good,
            failed=self._failed,
            free_bytes=self._space.free_bytes,
            placed=max(self._placed, key=lambda knobs: knobs.gpu_layers or 0, default=None),
        )

    def _log_time(self, layers: int) -> float:
        knobs = KnobValues(gpu_layers=layers, flash_attn="on")
        share = self._space.cpu_share(knobs)
        return log(self._turn_s(Candidate(knobs=knobs, cpu_share=share)))


def is_short_of_memory(record: TrialRecord, history: Sequence[TrialRecord]) -> bool:
    """A failure that less memory may remedy. One without a known line counts: nothing speaks against it.

    A process that died or a load that never ended may be memory in disguise. The first one counts, so there
    is one step back; later ones only where a setting that needs no more has worked.
    """
    outcome, knobs = record.observation.outcome, record.trial.knobs
    if outcome.is_memory or outcome is Outcome.FAILED:
        return True
    if outcome not in _DISGUISED:
        return False
    first = next((other for other in history if other.observation.outcome is outcome), record)
    return first == record or any(
        other.observation.outcome is Outcome.DONE and needs_as_much(knobs, other.trial.knobs)
        for other in history
    )


def needs_as_much(knobs: KnobValues, other: KnobValues) -> bool:
    """Whether ``knobs`` needs at least as much GPU memory as ``other`` in every respect."""
    if knobs.gpu_layers is None or other.gpu_layers is None:
        return False
    return (
        knobs.gpu_layers >= other.gpu_layers
        and knobs.cpu_moe <= other.cpu_moe
        and min(knobs.ubatch, knobs.batch) >= min(other.ubatch, other.batch)
        and KV_BYTES.get(knobs.kv_type, 2.0) >= KV_BYTES.get(other.kv_type, 2.0)
        and knobs.num_ctx * knobs.parallel >= other.num_ctx * other.parallel
        and knobs.flash_attn in {other.flash_attn, "off"}
    )


def _placed(record: TrialRecord) -> KnobValues | None:
    """What the engine's own placement put on the GPU, as explicit knobs."""
    report, knobs = record.observation.report, record.trial.knobs
    if knobs.gpu_layers is not None or report is None or not report.offloaded_layers or report.splits_layers:
        return None
    return knobs.with_(gpu_layers=report.offloaded_layers)
