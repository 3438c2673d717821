"""What a server fixes for all of its loads, and what that leaves of a question and of a setting. Pure.

An Ollama has one KV type, one flash attention mode and one number of slots for all of its models, and one
value for batch and micro-batch. What can't be asked for with a load is refused before the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from narthex.engines._base import Limits
from narthex.errors import UsageError
from narthex.knobs import BY_NAME, KnobValues
from narthex.studies.records import Question

AutomaticBatch = Callable[[int], int] | int | None
"""The batch that a server takes where none is asked for: by the context of all slots, or always the same."""
USUAL_KV = ("f16", "q8_0")  # allowed without being asked for
_USUAL = KnobValues()
_LEAST_AUTOMATIC = 512  # where nobody can say; every Ollama takes at least this for a completion model


def automatic_batch(batch: AutomaticBatch, total_ctx: int) -> int:
    """The batch that is taken where none is asked for. ``total_ctx`` counts all slots."""
    if callable(batch):
        return batch(total_ctx)
    return batch or _LEAST_AUTOMATIC


def check_question(question: Question, limits: Limits) -> None:
    """Raise UsageError where a question asks for what the server does not do for one load, or for what is no
    setting to look for."""
    check_pins(question.pins)
    asked = dict(question.pins)
    if question.parallel != _USUAL.parallel:
        asked.setdefault("parallel", question.parallel)
    check_settings(asked, limits)
    for kv_type in question.allow_kv:
        if kv_type not in USUAL_KV and _refuses(limits, "kv_type", kv_type):
            raise _refused(limits, "kv_type", kv_type)
    if question.current is not None and (why := refusal(question.current, limits)):
        raise UsageError(f"What you run now can't be measured here. {why}", hint=_hint(limits))


def check_pins(pins: Mapping[str, Any]) -> None:
    """Raise UsageError where a knob is fixed that leaves nothing to find."""
    if pins.get("gpu_layers", 0) is None:
        raise UsageError("gpu_layers=auto can't be fixed.", hint="The engine's own placement is a baseline.")


def check_settings(asked: Mapping[str, Any], limits: Limits) -> None:
    """Raise UsageError where knob values that somebody asked for can't be had from the server."""
    _check_kv_type(limits)
    for name, value in asked.items():
        if _refuses(limits, name, value):
            raise _refused(limits, name, value)
    pair = {asked[name] for name in ("batch", "ubatch") if name in asked}
    if limits.one_batch and len(pair) > 1:
        raise _two_batches(asked["batch"], asked["ubatch"])


def _check_kv_type(limits: Limits) -> None:
    """The planner knows the sizes of a few types only."""
    fixed, known = limits.fixed.get("kv_type", "f16"), BY_NAME["kv_type"].choices
    if fixed not in known:
        change = _change(limits, "kv_type")
        raise UsageError(
            f"The server keeps its KV cache as {fixed}, which narthex can't plan for.",
            hint=f"{change[:1].upper()}{change[1:]} to {' or '.join(known)}, restart it and begin again.",
        )


def settled_question(question: Question, limits: Limits, batch: AutomaticBatch = None) -> Question:
    """The question as this server can answer it. Raises UsageError as :func:`check_question` does."""
    check_question(question, limits)
    pins = dict(question.pins)
    if limits.one_batch and ("batch" in pins or "ubatch" in pins):
        pins["batch"] = pins["ubatch"] = pins.get("batch", pins.get("ubatch"))
    current = question.current
    return msgspec.structs.replace(
        question,
        pins=pins,
        parallel=limits.fixed.get("parallel", question.parallel),
        current=within(current, limits, batch) if current is not None else None,
    )


def refusal(knobs: KnobValues, limits: Limits) -> str | None:
    """Why a server can't be asked for a setting, in one sentence; None where it can.

    A value that is the usual one counts as not asked for: :func:`within` puts the server's in its place, so
    that what an engine's loader refuses never gets there.
    """
    for name in limits.fixed:
        value = getattr(knobs, name)
        if value != getattr(_USUAL, name) and _refuses(limits, name, value):
            return _sentence(limits, name, value)
    given = knobs.batch != _USUAL.batch and knobs.ubatch != _USUAL.ubatch
    if limits.one_batch and given and knobs.batch != knobs.ubatch:
        return _two_batches(knobs.batch, knobs.ubatch).message
    return None


def within(knobs: KnobValues, limits: Limits, batch: AutomaticBatch = None) -> KnobValues:
    """A setting with the server's own values where it leaves no choice. Check :func:`refusal` first."""
    knobs = knobs.with_(**limits.fixed)
    if not limits.one_batch or knobs.batch == knobs.ubatch:
        return knobs
    both = knobs.ubatch if knobs.batch == _USUAL.batch else knobs.batch
    if (knobs.batch, knobs.ubatch) == (_USUAL.batch, _USUAL.ubatch):
        both = automatic_batch(batch, knobs.num_ctx * knobs.parallel)
    return knobs.with_(batch=both, ubatch=both)


def engines_own(num_ctx: int, parallel: int, limits: Limits, batch: AutomaticBatch = None) -> KnobValues:
    """The engine's own placement at a context: nothing is asked for that it would choose itself."""
    return within(KnobValues(num_ctx=num_ctx, parallel=parallel), limits, batch)


def _refuses(limits: Limits, name: str, value: Any) -> bool:
    return name in limits.fixed and value != limits.fixed[name]


def _sentence(limits: Limits, name: str, value: Any) -> str:
    flag, fixed = BY_NAME[name].flag, limits.fixed[name]
    why = f" ({limits.why[name]})" if name in limits.why else ""
    return f"{flag} can't be {value} here: the server runs every load with {fixed}{why}."


def _refused(limits: Limits, name: str, value: Any) -> UsageError:
    return UsageError(_sentence(limits, name, value), hint=_hint(limits, name))


def _hint(limits: Limits, name: str = "") -> str:
    if name in limits.fixed and limits.variables and name not in limits.variables:
        return "Leave it out: this server has no such setting."
    return f"Leave it out; or {_change(limits, name)}, restart it and begin again."


def _change(limits: Limits, name: str) -> str:
    variable = limits.variables.get(name)
    return f"set {variable} on the server" if variable else "change that setting of the server"


def _two_batches(batch: Any, ubatch: Any) -> UsageError:
    return UsageError(
        f"Batch {batch} and micro-batch {ubatch} can't differ here: the server has one value for both.",
        hint="Give one of the two.",
    )
