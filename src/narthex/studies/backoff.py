"""Backing off: after a failure, which one parameter goes down, and what else stays.

The policy's order (default: context, GPU layers, batch) picks the parameter: the first one that can still
go lower. The context is never lowered below what was asked for. How far it goes is the caller's
choice among :func:`steps`; :func:`back_off` takes the nearest, or one further for each failure before.
"""

from __future__ import annotations

from collections.abc import Sequence

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.feasibility import is_short_of_memory
from narthex.studies.records import Proposal, Stop
from narthex.studies.space import Candidate, Space
from narthex.trials.trial import TrialRecord

KNOB_OF = {"num_ctx": "num_ctx", "gpu_layers": "gpu_layers", "batch": "ubatch", "ubatch": "ubatch"}
"""Policy word → the knob that is turned. It is the micro-batch that sets the size of the compute buffers."""
WORDS = {"num_ctx": "context", "gpu_layers": "GPU layers", "ubatch": "micro-batch", "kv_type": "KV type"}


def turned(before: KnobValues, after: KnobValues) -> set[str]:
    """The knobs in which two settings differ. Where batch and micro-batch go together they are one."""
    names = set(before.difference(after))
    together = before.batch == before.ubatch and after.batch == after.ubatch
    return names - {"batch"} if together else names


def changes_words(before: KnobValues, after: KnobValues) -> list[str]:
    """«GPU layers 65 → 62», one for each knob that differs."""
    names = turned(before, after)
    return [
        f"{WORDS.get(name, name)} {old} → {new}"
        for name, (old, new) in before.difference(after).items()
        if name in names
    ]


def steps(
    knobs: KnobValues, space: Space, order: Sequence[str], floor: int, tried: Sequence[KnobValues]
) -> tuple[str, list[Candidate]] | None:
    """The parameter to lower and the settings that differ from ``knobs`` in it alone, nearest first.

    ``floor`` is the least context allowed. None: nothing is left to lower.
    """
    for word in order:
        knob = KNOB_OF[word]
        lower = [
            candidate
            for candidate in space.candidates
            if turned(knobs, candidate.knobs) == {knob}
            and getattr(candidate.knobs, knob) < (getattr(knobs, knob) or 0)
            and candidate.knobs.num_ctx >= floor
            and candidate.knobs not in tried
        ]
        if lower:
            return knob, sorted(lower, key=lambda candidate: -getattr(candidate.knobs, knob))
    return None


def back_off(  # noqa: PLR0917 - in the order in which one says it
    knobs: KnobValues,
    failed: TrialRecord | Outcome,
    space: Space,
    order: Sequence[str],
    floor: int,
    history: Sequence[TrialRecord] = (),
) -> Proposal | Stop:
    """The next setting after ``knobs`` failed, or Stop where nothing can go lower.

    The step is the nearest lower value; each failed back-off of the same parameter just before doubles it.
    """
    found = steps(knobs, space, order, floor, [record.trial.knobs for record in history])
    if found is None:
        return Stop(why=f"Nothing is left to lower: {', '.join(order)} are at their least.")
    knob, lower = found
    stride = 2 ** repeated(knobs, history, knob)
    chosen = lower[min(stride, len(lower)) - 1].knobs
    outcome = failed if isinstance(failed, Outcome) else failed.observation.outcome
    return Proposal(knobs=chosen, why=explain(knobs, chosen, outcome))


def explain(before: KnobValues, after: KnobValues, outcome: Outcome) -> str:
    """«out of memory: GPU layers 65 → 62»."""
    return f"{outcome.value.replace('_', ' ')}: {', '.join(changes_words(before, after))}"


def repeated(knobs: KnobValues, history: Sequence[TrialRecord], knob: str) -> int:
    """How many of the newest failures in a row were steps of this one parameter."""
    count, newer = 0, knobs
    for record in reversed(history):
        if not is_short_of_memory(record, history):
            break
        older = record.trial.knobs
        if older == newer:
            continue
        if turned(older, newer) != {knob}:
            break
        count, newer = count + 1, older
    return count
