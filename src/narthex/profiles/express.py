"""What Ollama can say of a profile, and the nearest setting where it can't say all of it. Pure.

Ollama starts its runner with one number for ``-b`` and ``-ub``, and takes KV type, flash attention and slots
from the environment of its server (reference: its options table and environment variables).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from narthex.engines._base import Limits
from narthex.engines.ollama.variables import OF_KNOBS
from narthex.knobs import KnobValues
from narthex.memory.frontier import most_layers
from narthex.memory.plan import Device, plan_memory
from narthex.models.inspection import Inspection
from narthex.profiles.profile import Profile

UNSET = Limits(
    fixed={"kv_type": "f16", "flash_attn": "auto", "parallel": 1, "cpu_moe": 0},
    why={knob: f"{variable} is not set" for knob, variable in OF_KNOBS.items()},
    variables=OF_KNOBS,
    one_batch=True,
)
"""A server with none of its variables set."""
_NAMES = {
    "kv_type": "KV type",
    "flash_attn": "flash attention",
    "parallel": "slots",
    "cpu_moe": "CPU experts",
}


class Expressed(msgspec.Struct, frozen=True, kw_only=True):
    """A profile's setting as one Ollama server can have it. ``differences`` is empty where it is the same."""

    knobs: KnobValues
    differences: tuple[str, ...] = ()


def express(profile: Profile, limits: Limits) -> Expressed:
    """The nearest setting that a server with these limits can be given, and each difference in words."""
    knobs = profile.knobs
    values, words = {}, []
    for name, fixed in limits.fixed.items():
        wanted = getattr(knobs, name)
        if wanted == fixed or _same(name, wanted, fixed):
            continue
        values[name] = fixed
        why = limits.why.get(name, "it is the same for the whole server")
        words.append(f"{_NAMES.get(name, name)} {wanted}: the server has {fixed} ({why})")
    if limits.one_batch and knobs.batch != knobs.ubatch:
        values["batch"] = knobs.ubatch
        words.append(
            f"batch {knobs.batch} with a micro-batch of {knobs.ubatch}: Ollama has one num_batch for both"
        )
    return Expressed(knobs=knobs.with_(**values), differences=tuple(words))


def fitted(found: Expressed, inspection: Inspection, devices: tuple[Device, ...], **room: Any) -> Expressed:
    """The same with as many layers as the plan says still fit: a larger KV type takes room from them.

    ``room``: the keywords of :func:`narthex.memory.plan.plan_memory`. Unchanged where it fits, where the
    layers are left to Ollama, or where no number fits either.
    """
    knobs = found.knobs
    if knobs.gpu_layers is None or not any(device.kind == "gpu" for device in devices):
        return found
    if plan_memory(inspection, knobs, devices, **room).fits is not False:
        return found
    most = most_layers(inspection, knobs, devices, **room)
    if most is None or most >= knobs.gpu_layers:
        return found
    word = f"{knobs.gpu_layers} GPU layers: {most} fit then, by the plan"
    return Expressed(knobs=knobs.with_(gpu_layers=most), differences=(*found.differences, word))


def server_variables(knobs: KnobValues) -> dict[str, str]:
    """What the server's environment has to hold for this setting; empty where its defaults do."""
    return dict(_variables(knobs))


def _variables(knobs: KnobValues) -> Iterator[tuple[str, str]]:
    if knobs.kv_type != "f16":
        yield OF_KNOBS["kv_type"], knobs.kv_type
    if knobs.flash_attn == "off" or (knobs.flash_attn == "on" and knobs.kv_type != "f16"):
        yield OF_KNOBS["flash_attn"], str(int(knobs.flash_attn == "on"))
    if knobs.parallel != 1:
        yield OF_KNOBS["parallel"], str(knobs.parallel)
    if knobs.cpu_moe:
        yield OF_KNOBS["cpu_moe"], str(knobs.cpu_moe)


def own_limits(knobs: KnobValues) -> Limits:
    """The limits of a server whose environment holds :func:`server_variables` of this setting."""
    return Limits(fixed={name: getattr(knobs, name) for name in OF_KNOBS}, one_batch=True)


def _same(name: str, wanted: Any, fixed: Any) -> bool:
    """«auto» switches flash attention on wherever the model and the card can do it."""
    return name == "flash_attn" and {wanted, fixed} == {"on", "auto"}
