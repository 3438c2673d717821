"""What a study is held against: what the user has now, the house defaults, the engine's own placement."""

from __future__ import annotations

import msgspec

from narthex.engines._base import Limits
from narthex.knobs import KnobValues
from narthex.studies.limits import AutomaticBatch, engines_own, refusal, within
from narthex.studies.records import Question
from narthex.studies.space import Space
from narthex.trials.trial import Turn

_SHORT_GENERATE = 64  # the house setting can be dreadful: enough tokens for a speed, no more


class House(msgspec.Struct, frozen=True, kw_only=True):
    """The house defaults: a fixed habit, and the policy's start point for this model where it has one.

    ``num_ctx`` None: the context that the study is asked for; ``threads`` None: one for each core.
    """

    gpu_layers: int = 19
    batch: int = 256
    num_ctx: int | None = None
    threads: int | None = None


class BaselineSetting(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline before it is measured. ``knobs`` that can't be measured have a ``why_not``."""

    name: str
    knobs: KnobValues
    why_not: str = ""
    turn: Turn | None = None  # None: the study's own
    repeats: int | None = None


def baselines_of(
    question: Question,
    space: Space,
    current: KnobValues | None = None,
    house: House | None = None,
    cores: int | None = None,
    *,
    limits: Limits | None = None,
    batch: AutomaticBatch = None,
) -> tuple[BaselineSetting, ...]:
    """The baselines of a study, in the order they are measured. ``limits``, ``batch``: of the server."""
    limits = limits or Limits()
    current = question.current or current
    rows = [_current(current, limits, batch)] if current else []
    rows.append(
        BaselineSetting(name="engine", knobs=engines_own(space.min_ctx, question.parallel, limits, batch))
    )
    rows.append(_house(question, space, house or House(), cores, limits))
    return tuple(_checked(row, space) if space.recorded else row for row in rows)


def _current(knobs: KnobValues, limits: Limits, batch: AutomaticBatch) -> BaselineSetting:
    if why := refusal(knobs, limits):
        return BaselineSetting(name="current", knobs=knobs, why_not=why)
    return BaselineSetting(name="current", knobs=within(knobs, limits, batch))


def _house(
    question: Question, space: Space, house: House, cores: int | None, limits: Limits
) -> BaselineSetting:
    knobs = KnobValues(
        num_ctx=house.num_ctx or space.min_ctx,
        gpu_layers=min(house.gpu_layers, space.all_layers) if space.has_gpu else 0,
        batch=house.batch,
        ubatch=house.batch,
        parallel=question.parallel,
        threads=house.threads or cores,
    ).with_(**limits.fixed)
    turn = msgspec.structs.replace(question.turn, generate=min(question.turn.generate, _SHORT_GENERATE))
    if space.recorded:
        recorded = [
            c.knobs
            for c in space.candidates
            if (c.knobs.gpu_layers, c.knobs.ubatch, c.knobs.kv_type, c.knobs.flash_attn)
            == (knobs.gpu_layers, house.batch, "f16", "on")
        ]
        return BaselineSetting(name="house", knobs=recorded[0] if recorded else knobs)
    return BaselineSetting(name="house", knobs=knobs, turn=turn, repeats=1)


def _checked(row: BaselineSetting, space: Space) -> BaselineSetting:
    """In a recording only what was recorded can be measured."""
    if row.knobs.gpu_layers is None:
        missing = "the recording has no speed of the engine's own placement at this context"
        return row if space.engine_known else msgspec.structs.replace(row, why_not=missing)
    if space.find(row.knobs):
        return row
    return msgspec.structs.replace(row, why_not="the recording has no point for it at this depth")
