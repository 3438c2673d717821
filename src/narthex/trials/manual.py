"""The manual loop's rules: where a trial starts from, and that one knob is turned at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from narthex.errors import UsageError
from narthex.knobs import BY_NAME, KNOBS, KnobValues, parse_knob
from narthex.trials.trial import Turn

_BY_FLAG = {knob.flag.removeprefix("--"): knob.name for knob in KNOBS}


def read_settings(words: Sequence[str], *, layers: int | None) -> dict[str, Any]:
    """Knob values from ``KNOB=VALUE`` words; a knob goes by its name or its flag. Raises UsageError."""
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        name = name.strip().removeprefix("--")
        if not sign:
            raise UsageError(f"«{word}» is no KNOB=VALUE.", hint="Write it as in gpu_layers=40.")
        name = _BY_FLAG.get(name, name)
        if name not in BY_NAME:
            raise UsageError(f"There is no knob «{name}».", hint="Knobs are: " + ", ".join(BY_NAME) + ".")
        found[name] = parse_knob(name, value, layers=layers)
    return found


def turned(start: KnobValues, settings: dict[str, Any], *, many: bool) -> KnobValues:
    """The setting to try. Raises UsageError where several knobs are turned and ``many`` does not allow it."""
    knobs = start.with_(**settings)
    changes = knobs.difference(start)
    if len(changes) > 1 and not many:
        listed = ", ".join(difference_words(changes))
        raise UsageError(
            f"This turns {len(changes)} knobs at once: {listed}.",
            hint="Turn one at a time, so that you know which one it was; or allow it with --many.",
        )
    return knobs


def difference_words(changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """``gpu_layers 19 → 30``, from what :meth:`KnobValues.difference` of new and old gives."""
    return [f"{name} {_shown(old)} → {_shown(new)}" for name, (new, old) in changes.items()]


def fitted(turn: Turn, num_ctx: int) -> Turn:
    """The turn cut to a context: first its depth, then its prompt and its answer, halves of what is left."""
    room = num_ctx - turn.prompt_tokens - turn.generate
    if room >= 0:
        return msgspec.structs.replace(turn, depth=min(turn.depth, room))
    generate = min(turn.generate, max(1, num_ctx // 2))
    return Turn(depth=0, prompt_tokens=max(1, min(turn.prompt_tokens, num_ctx - generate)), generate=generate)


def _shown(value: Any) -> str:
    return "auto" if value is None else str(value)
