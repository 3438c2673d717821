"""What a study is held against: what the user has now, the house defaults, the engine's own placement."""

from __future__ import annotations

import msgspec

from narthex.knobs import KnobValues
from narthex.studies.records import Question
from narthex.studies.space import Space
from narthex.trials.trial import Turn

_SHORT_GENERATE = 64  # the house setting can be dreadful: enough tokens for a speed, no more


class House(msgspec.Struct, frozen=True, kw_only=True):
    """The house defaults: a fixed habit (settings ``house_gpu_layers`` and ``house_batch``)."""

    gpu_layers: int = 19
    batch: int = 256


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
) -> tuple[BaselineSetting, ...]:
    """The baselines of a study, in the order they are measured."""
    current = question.current or current
    rows = [BaselineSetting(name="current", knobs=current)] if current else []
    rows.append(_engine(question, space))
    rows.append(_house(question, space, house or House(), cores))
    return tuple(_checked(row, space) if space.recorded else row for row in rows)


def _engine(question: Question, space: Space) -> BaselineSetting:
    return BaselineSetting(name="engine", knobs=KnobValues(num_ctx=space.min_ctx, parallel=question.parallel))


def _house(question: Question, space: Space, house: House, cores: int | None) -> BaselineSetting:
    knobs = KnobValues(
        num_ctx=space.min_ctx,
        gpu_layers=min(house.gpu_layers, space.all_layers) if space.has_gpu else 0,
        batch=house.batch,
        ubatch=house.batch,
        parallel=question.parallel,
        threads=cores,
    )
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
