"""How likely a setting fits into memory, from the plan where there is one and from what has been tried.

With a plan the unknown is one figure: how much memory the engine really gets. The plan's own limit is the
prior, a good load raises what is known to be there and a failed one caps it. Without a plan only an order
is known: a setting that needs at least as much of everything as a failed one fails too. Between the highest
layer count that worked and the lowest that failed, the edge is taken to be anywhere with equal chance on the
scale of log turn time; choosing by chance × gain then halves the gap on that scale (see ``design.md``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import erf, log, sqrt

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.space import KV_BYTES, Candidate, Space
from narthex.trials.trial import TrialRecord
from narthex.units import MIB

PLAN_SIGMA_BYTES = 96 * MIB  # how far a plan may be off: the planner's own bound on recorded loads
UNTRIED = 0.85  # no plan, nothing tried: most settings that people ask about fit
LAST_RESORT = 0.97  # the setting that needs least may fail too
BELIEVED = 0.95  # the engine's own placement fitted this many layers
_RESCUE = (  # chance that a smaller micro-batch or KV cache saves what failed, by the buffer that failed
    (re.compile(r"load model|model buffer|load_tensors|tensor", re.IGNORECASE), 0.03),
    (re.compile(r"compute|graph", re.IGNORECASE), 0.30),
    (re.compile(r"kv|cache", re.IGNORECASE), 0.30),
)
_RESCUE_UNKNOWN = 0.2
_RESCUE_AGAIN = 0.25  # what is left of it after each rescue that failed
_SAME_FEATURES = 0.1  # a combination of KV type and flash attention that the engine refused


class Feasibility:
    """Chances under one history. ``turn_s`` gives the cost model's prediction for a candidate."""

    def __init__(
        self, space: Space, history: Sequence[TrialRecord], turn_s: Callable[[Candidate], float]
    ) -> None:
        self._space = space
        self._turn_s = turn_s
        done = [record for record in history if record.observation.outcome is Outcome.DONE]
        self._good = [record.trial.knobs for record in done if record.trial.knobs.gpu_layers is not None]
        self._believed = max((offloaded for record in done if (offloaded := _placed(record))), default=None)
        self._failed = [
            record
            for record in history
            if is_short_of_memory(record) and record.trial.knobs.gpu_layers is not None
        ]
        self._refused = {
            (record.trial.knobs.kv_type, record.trial.knobs.flash_attn)
            for record in history
            if record.observation.outcome in (Outcome.UNSUPPORTED_SETTING, Outcome.CRASHED)
            and record.trial.knobs.gpu_layers is not None
        }
        self._known = self._limits()

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
            return self._planned(candidate.need_bytes, candidate.limit_bytes)
        return self._ordered(candidate)

    # With a plan.

    def _limits(self) -> tuple[float, float]:
        """The most that is known to be there, and the least that is known to be too much, in plan bytes."""
        good = [c.need_bytes for knobs in self._good if (c := self._space.find(knobs)) and c.need_bytes]
        bad = [
            c.need_bytes
            for record in self._failed
            if (c := self._space.find(record.trial.knobs)) and c.need_bytes
        ]
        return float(max(good, default=0)), float(min(bad, default=float("inf")))

    def _planned(self, need: int, limit: int) -> float:
        low, high = self._known
        if need <= low:
            return 1.0
        if need >= high:
            return 0.0

        def below(value: float) -> float:
            return 0.5 * (1 + erf((value - limit) / (PLAN_SIGMA_BYTES * sqrt(2))))

        mass = (below(high) if high != float("inf") else 1.0) - (below(low) if low else 0.0)
        if mass < 1e-3:  # the plan is contradicted: all that is left is the gap itself
            return (high - need) / (high - low) if high != float("inf") else 0.5
        return ((below(high) if high != float("inf") else 1.0) - below(need)) / mass

    # Without one.

    def _ordered(self, candidate: Candidate) -> float:
        layers = candidate.knobs.gpu_layers
        assert layers is not None
        above = [failed for record in self._failed if (failed := record.trial.knobs.gpu_layers or 0) > layers]
        at_or_below = [
            record for record in self._failed if (record.trial.knobs.gpu_layers or 0) <= layers
        ]  # with a larger micro-batch, KV cache or context, else the order would have settled it
        believed = self._believed is not None and layers <= self._believed
        if at_or_below:
            return self._rescue(candidate.knobs, at_or_below)
        if believed:
            return BELIEVED
        return self._between(layers, min(above)) if above else UNTRIED

    def _between(self, layers: int, failed: int) -> float:
        """The chance by place between what worked and what failed, on the scale of log turn time."""
        worked = [knobs.gpu_layers for knobs in self._good if (knobs.gpu_layers or 0) < failed]
        floor = max((count for count in worked if count is not None), default=None)
        if self._believed is not None and self._believed < failed:
            floor = max(floor or 0, self._believed)
        if floor is None:
            floor = min(self._space.values("gpu_layers"))
            if layers <= floor:
                return LAST_RESORT
        if layers <= floor:
            return BELIEVED
        top, mid, bottom = (self._log_time(count) for count in (failed, layers, floor))
        return min(max((mid - top) / (bottom - top), 0.02), 0.98) if bottom > top else 0.5

    def _log_time(self, layers: int) -> float:
        knobs = KnobValues(gpu_layers=layers, flash_attn="on")
        share = self._space.cpu_share(knobs)
        return log(self._turn_s(Candidate(knobs=knobs, cpu_share=share)))

    def _rescue(self, knobs: KnobValues, failures: Sequence[TrialRecord]) -> float:
        """A setting with as many layers as one that failed, but a smaller micro-batch or KV cache."""
        chance = 1.0
        for record in failures:
            chance = min(chance, _rescue_chance(record.observation.reason))
        rescues = sum(
            any(
                other is not record and _is_rescue(record.trial.knobs, other.trial.knobs)
                for other in self._failed
            )
            for record in self._failed
        )
        return chance * _RESCUE_AGAIN**rescues


def is_short_of_memory(record: TrialRecord) -> bool:
    """A failure that less memory may remedy. One without a known line counts: nothing speaks against it."""
    outcome = record.observation.outcome
    return outcome.is_memory or outcome is Outcome.FAILED


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


def _is_rescue(knobs: KnobValues, failed: KnobValues) -> bool:
    return knobs != failed and knobs.gpu_layers == failed.gpu_layers and needs_as_much(failed, knobs)


def _rescue_chance(reason: str) -> float:
    found = [chance for pattern, chance in _RESCUE if pattern.search(reason)]
    return max(found, default=_RESCUE_UNKNOWN)


def _placed(record: TrialRecord) -> int | None:
    """Layers that the engine's own placement put on the GPU."""
    report = record.observation.report
    return report.offloaded_layers if record.trial.knobs.gpu_layers is None and report else None
