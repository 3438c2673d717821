"""The default: try what has the greatest chance × gain, and stop when nothing is worth a load.

The cost model says how long a turn should take and how far that may be off; the plan, and what has
failed so far, say how likely a setting fits. After a failure only one parameter goes down, in the order of
the policy; how far, the same rule decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import erf, exp, log, pi, sqrt
from random import Random

import msgspec

from narthex.studies import backoff, stopping
from narthex.studies.cost_model import CostModel, Prediction
from narthex.studies.feasibility import Feasibility, is_short_of_memory
from narthex.studies.objective import best_record, measured_utility, utility
from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Candidate, Space
from narthex.trials.trial import TrialRecord

RANDOM_EVERY = 8  # one load in so many goes to a random setting, so that a wrong model is found out
SURE = 0.95  # a setting this likely to fit is as good as sure
RECORDED_CHANCE = 0.05  # settings of a recording less likely to fit than this are left out
STEP_WORTH = 0.9  # a step down is taken where it brings at least this share of the best load
RANDOM_CHANCE = 0.5  # … among those that are more likely to fit than not


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate with what is expected of it. ``gain`` and ``hope`` are differences of utility."""

    candidate: Candidate
    prediction: Prediction
    chance: float
    gain: float  # expected improvement on the best so far, if it fits
    hope: float  # improvement if all goes as much better than expected as may well be

    @property
    def worth(self) -> float:
        """Chance × gain: what a load of it should bring."""
        return self.chance * self.gain


def propose(question: Question, space: Space, history: Sequence[TrialRecord]) -> Proposal | Stop:
    """The next setting, or why none is worth a load."""
    if stop := stopping.hopeless(history):
        return stop
    rated = rate(question, space, history)
    if not rated:
        return Stop(why="Every setting has been tried, or can't fit.")
    found_one = best_record(question, space.comparable(history)) is not None
    if found_one and (stop := stopping.nothing_better(max(row.hope for row in rated))):
        return stop
    short = bool(history) and is_short_of_memory(history[-1], history)
    if short and (step := _back_off(question, space, history, rated)):
        return step
    if found_one and (arm := _random_arm(question, history, rated)):
        return arm
    best = max((row for row in rated if row.hope > stopping.WORTH or not found_one), key=_order)
    return Proposal(
        knobs=best.candidate.knobs,
        why=_why(best, found_one, bool(history)),
        expected_turn_s=best.prediction.turn_s
        if CostModel.of(question.turn, space, history).samples
        else None,
    )


def safest(question: Question, space: Space, history: Sequence[TrialRecord]) -> Proposal | None:
    """The best setting that is sure to fit, or the surest one. None: nothing is left."""
    model = CostModel.of(question.turn, space, history)
    feasibility = Feasibility(space, history, lambda candidate: model.predict(candidate).turn_s)
    tried = {record.trial.knobs for record in history}

    def key(candidate: Candidate) -> tuple[float, float, float, float]:
        prediction = model.predict(candidate)
        value = utility(question, candidate.knobs, prediction.turn_s, prediction.decode_tps)
        chance, knobs = feasibility.chance(candidate), candidate.knobs
        plain = -abs(log(knobs.ubatch / 512)) + float(knobs.kv_type == "f16")
        return min(chance, SURE), round(value, 3), plain, chance

    left = [candidate for candidate in space.candidates if candidate.knobs not in tried]
    best = max(left, key=key, default=None)
    if best is None or feasibility.chance(best) < stopping.LEAST_CHANCE:
        return None
    return Proposal(
        knobs=best.knobs,
        why="the best setting that is sure to fit",
        expected_turn_s=model.predict(best).turn_s if model.samples else None,
    )


def rate(question: Question, space: Space, history: Sequence[TrialRecord]) -> list[Rated]:
    """Every setting that is left, with what is expected of it; hopeless ones left out."""
    model = CostModel.of(question.turn, space, history)
    feasibility = Feasibility(space, history, lambda candidate: model.predict(candidate).turn_s)
    tried = {record.trial.knobs for record in history}
    left = [candidate for candidate in space.candidates if candidate.knobs not in tried]
    best = best_record(question, space.comparable(history))
    if best is not None and (measured := measured_utility(question, best)) is not None:
        base: float | None = measured
    else:
        base = None
    predictions = [(candidate, model.predict(candidate)) for candidate in left]
    least = stopping.LEAST_CHANCE
    if space.recorded:  # its loads take no time: while nothing has worked, any chance is worth one
        least = RECORDED_CHANCE if base is not None else 0.0
    if base is None:
        base = _ground(question, predictions)
    rows = []
    for candidate, prediction in predictions:
        chance = feasibility.chance(candidate)
        if chance <= 0.0 or chance < least:
            continue
        value = utility(question, candidate.knobs, prediction.turn_s, prediction.decode_tps)
        rows.append(
            Rated(
                candidate=candidate,
                prediction=prediction,
                chance=chance,
                gain=expected_improvement(value - base, prediction.sigma),
                hope=value + space.doubt * prediction.sigma - base,
            )
        )
    return rows


def expected_improvement(difference: float, sigma: float) -> float:
    """Mean of max(0, N(difference, sigma)): the gain over what is in hand (Jones et al. 1998, eq. 15)."""
    if sigma <= 0:
        return max(difference, 0.0)
    z = difference / sigma
    return difference * 0.5 * (1 + erf(z / sqrt(2))) + sigma * exp(-z * z / 2) / sqrt(2 * pi)


def _ground(question: Question, predictions: Iterable[tuple[Candidate, Prediction]]) -> float:
    """Before anything worked: a little below the worst setting, so that any success is a gain."""
    values = [utility(question, c.knobs, p.turn_s, p.decode_tps) for c, p in predictions]
    return min(values, default=0.0) - 0.05


def _order(row: Rated) -> tuple[float, float, float]:
    """Most worth first; among equals the engine's usual micro-batch and the plain KV cache."""
    knobs = row.candidate.knobs
    return round(row.worth, 4), -abs(log(knobs.ubatch / 512)), float(knobs.kv_type == "f16")


def _back_off(
    question: Question, space: Space, history: Sequence[TrialRecord], rated: Sequence[Rated]
) -> Proposal | None:
    """One parameter down from the setting that failed, as far as chance × gain says."""
    failed = history[-1]
    tried = [record.trial.knobs for record in history]
    floor = question.min_ctx or 0
    # Where something works already, a step down from a failed side way must not cost a better load.
    found_one = best_record(question, space.comparable(history)) is not None
    enough = STEP_WORTH * max(row.worth for row in rated) if found_one and space.recorded else 0.0
    worth = {row.candidate.knobs: row for row in rated}
    for word in question.backoff_order:
        found = backoff.steps(failed.trial.knobs, space, (word,), floor, tried)
        if found is None:
            continue
        knob, lower = found
        # A context one step shorter frees little: each failure in a row doubles the step.
        near = 2 ** backoff.repeated(failed.trial.knobs, history, knob) - 1 if knob == "num_ctx" else 0
        rows = [worth[step.knobs] for step in lower[min(near, len(lower) - 1) :] if step.knobs in worth]
        rows = [row for row in rows if row.hope > stopping.WORTH]
        if rows:
            best = max(rows, key=_order)
            if best.worth < enough:
                continue
            why = backoff.explain(failed.trial.knobs, best.candidate.knobs, failed.observation.outcome)
            return Proposal(knobs=best.candidate.knobs, why=f"backing off, {why}")
    return None


def _random_arm(
    question: Question, history: Sequence[TrialRecord], rated: Sequence[Rated]
) -> Proposal | None:
    """Now and then a random setting."""
    loads = stopping.loads_of(history)
    if loads == 0 or loads % RANDOM_EVERY != RANDOM_EVERY - 1:
        return None
    likely = [row for row in rated if row.chance >= RANDOM_CHANCE]
    if not likely:
        return None
    chosen = Random(f"{question.seed}/{loads}").choice(likely)
    return Proposal(
        knobs=chosen.candidate.knobs,
        why="random check, so that a wrong model is found out",
        expected_turn_s=chosen.prediction.turn_s,
    )


def _why(row: Rated, found_one: bool, started: bool) -> str:
    margin = row.candidate.margin_bytes
    fit = f"{row.chance:.0%} likely to fit" if margin is None or row.chance < 0.99 else "fits by the plan"
    if not started:
        return f"fastest by the cost model, {fit}"
    if not found_one:
        return f"best chance of a first success, {fit}"
    return f"may gain {row.hope:.0%} at best, {fit}"
