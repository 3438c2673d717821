"""What we conclude from observations: pure functions, each answer with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import sqrt
from statistics import median

import msgspec

from narthex.outcomes import Outcome
from narthex.trials.observation import Observation

TIE = 0.02
"""Within this share two turn times count as equal: repeats of one setting differ by about as much."""
WIDE_SPREAD = 0.10
"""Repeats that differ by more than this share are worth a doubt."""


class Judgement(StrEnum):
    """The word for a conclusion."""

    USABLE = "usable"
    NOT_PROVEN = "not_proven"  # it ran, but the figures can't be trusted
    FAILED = "failed"
    FASTER = "faster"
    SLOWER = "slower"
    TIE = "tie"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A conclusion in one sentence, and what it rests on."""

    judgement: Judgement
    text: str
    reasons: tuple[str, ...] = ()
    ratio: float | None = None  # for a comparison: turn time of the first over the second's
    noise: float | None = None  # for a comparison: the difference that chance alone may make, as a share


def judge(observation: Observation) -> Verdict:
    """Whether one observation can carry a decision."""
    if observation.outcome is not Outcome.DONE:
        word = observation.outcome.value.replace("_", " ")
        return Verdict(
            judgement=Judgement.FAILED,
            text=f"It failed: {word}.",
            reasons=(observation.reason,) if observation.reason else (),
        )
    if observation.turn_s is None:
        return Verdict(
            judgement=Judgement.NOT_PROVEN,
            text="It ran, but no turn was timed to its end.",
            reasons=observation.doubts,
        )
    if any(turn.generated < 2 for turn in observation.turns):
        return Verdict(
            judgement=Judgement.NOT_PROVEN,
            text="Too few tokens came to know a speed.",
            reasons=observation.doubts,
        )
    if observation.spread is not None and observation.spread > 3 * WIDE_SPREAD:
        text = f"The repeats differ by {observation.spread:.0%}: no speed can be told from them."
        return Verdict(judgement=Judgement.NOT_PROVEN, text=text, reasons=observation.doubts)
    return Verdict(judgement=Judgement.USABLE, text="The figures can be used.", reasons=observation.doubts)


def compare(a: Sequence[Observation], b: Sequence[Observation]) -> Verdict:
    """Whether setting A is faster than B, from interleaved observations of each.

    Medians of all turns are compared. A difference within 2 %, or within what chance alone may make
    (two standard errors of the medians' difference), is a tie.
    """
    times_a, times_b = _turn_times(a), _turn_times(b)
    if not times_a or not times_b:
        side = "first" if not times_a else "second"
        return Verdict(
            judgement=Judgement.NOT_PROVEN, text=f"The {side} setting has no timed turn to compare."
        )
    middle_a, middle_b = median(times_a), median(times_b)
    ratio = middle_a / middle_b
    noise = (
        2 * sqrt(_error_of_median(times_a) ** 2 + _error_of_median(times_b) ** 2) / min(middle_a, middle_b)
    )
    reasons = (
        f"turn {middle_a:.2f} s against {middle_b:.2f} s ({len(times_a)} and {len(times_b)} repeats)",
        f"chance alone may make {noise:.1%}" if noise else "too few repeats to know what chance makes",
    )
    difference = abs(1 - ratio)
    if difference <= TIE:
        judgement, text = Judgement.TIE, f"A tie: the turn times differ by {difference:.1%}."
    elif difference <= noise:
        judgement = Judgement.TIE
        text = (
            f"A tie: the turn times differ by {difference:.1%}, no more than chance may make ({noise:.1%})."
        )
    elif ratio < 1:
        judgement, text = Judgement.FASTER, f"Faster: a turn takes {ratio:.2f} times the other's."
    else:
        judgement, text = Judgement.SLOWER, f"Slower: a turn takes {ratio:.2f} times the other's."
    return Verdict(judgement=judgement, text=text, reasons=reasons, ratio=ratio, noise=noise)


def _turn_times(observations: Sequence[Observation]) -> list[float]:
    done = [observation for observation in observations if observation.outcome is Outcome.DONE]
    return [turn.turn_s for observation in done for turn in observation.turns if turn.turn_s is not None]


def _error_of_median(values: Sequence[float]) -> float:
    """Standard error of the median: 1.2533 σ / √n, with σ from the median absolute deviation (× 1.4826)."""
    if len(values) < 3:
        return 0.0
    middle = median(values)
    sigma = 1.4826 * median(abs(value - middle) for value in values)
    return float(1.2533 * sigma / sqrt(len(values)))
