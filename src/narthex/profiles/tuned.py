"""The tuned model in Ollama: made from a profile beside the user's own model, and taken back.

The user's model is only named as the source: a tuned model shares its layers and adds parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from narthex.engines.ollama.api import Api
from narthex.engines.ollama.names import same, short
from narthex.engines.ollama.options import options_for
from narthex.engines.ollama.records import Tag
from narthex.errors import ProfileError
from narthex.knobs import KnobValues
from narthex.profiles.profile import Profile
from narthex.trials.observation import Observation

SUFFIX = "-narthex"


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """A tuned model before it is made."""

    name: str
    source: str  # the user's model
    parameters: dict[str, Any]  # Ollama's names: num_ctx, num_gpu, num_batch, num_thread, use_mmap

    @property
    def modelfile(self) -> str:
        """The same as a Modelfile."""
        return modelfile(self.source, self.parameters)


def modelfile(source: str, parameters: dict[str, Any]) -> str:
    """``FROM`` and one ``PARAMETER`` a line. Nothing may follow a value: Ollama reads ``#`` as part of it."""
    lines = [f"FROM {source}", *(f"PARAMETER {name} {_value(value)}" for name, value in parameters.items())]
    return "\n".join(lines) + "\n"


def tuned_name(source: str) -> str:
    """``deepseek-r1:32b-narthex`` for ``deepseek-r1:32b``, ``gemma-narthex`` for ``gemma:latest``."""
    return short(source).removesuffix(":latest") + SUFFIX


def parameters_for(knobs: KnobValues, version: str, base: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a tuned model. ``base`` holds those of the user's model.

    Ollama merges new parameters over the base's and can't drop one, so what the setting leaves to Ollama
    is said with the value that means «automatic» where the base has another. For use_mmap there is no such
    value: the base's own counted in the trials, and it goes on to count.
    """
    found = options_for(knobs, version, parallel=knobs.parallel)
    for name, automatic in (("num_gpu", -1), ("num_thread", 0), ("num_batch", knobs.ubatch)):
        if name in base and name not in found:
            found[name] = automatic
    return found


def must_be_free(
    tuning: Tuning, profile: Profile, tags: Sequence[Tag], others: Sequence[Profile] = ()
) -> None:
    """Raises ProfileError where the name is the original's or another model has it, and where the profile
    stands under another name. ``others``: every profile, so that it can be said whose the model is."""
    if same(tuning.name, tuning.source):
        raise ProfileError(
            f"«{tuning.name}» is the model itself, which is never changed.",
            hint=f"Leave --as out for «{tuned_name(tuning.source)}», or give another name.",
        )
    there = next((tag for tag in tags if same(tag.name, tuning.name)), None)
    if there is not None and not made_here(profile, there):
        if owner := next((other for other in others if made_here(other, there)), None):
            raise ProfileError(
                f"«{tuning.name}» is the tuned model of another profile, {owner.name}.",
                hint=f"Take that back first: narthex unapply {owner.name}; or give another name with --as.",
            )
        raise ProfileError(
            f"Ollama has a model «{tuning.name}» already, and it is not from this profile.",
            hint="Give another name with --as NAME, or remove that one: ollama rm " + tuning.name,
        )
    _must_stand_once(tuning, profile, tags)


def _must_stand_once(tuning: Tuning, profile: Profile, tags: Sequence[Tag]) -> None:
    """A profile knows of one tuned model: a second one would be forgotten by «unapply»."""
    for tag in tags:
        if made_here(profile, tag) and not same(tag.name, tuning.name):
            raise ProfileError(
                f"This profile stands in Ollama already, as «{profile.applied_as}».",
                hint=f"Take that back first: narthex unapply {profile.name}",
            )


def made_here(profile: Profile, tag: Tag) -> bool:
    """Whether this stored model is, to the byte of its manifest, what ``apply`` made of the profile."""
    ours = profile.applied_as is not None and same(profile.applied_as, tag.name)
    return ours and tag.digest == profile.applied_digest


def make(api: Api, tuning: Tuning) -> str:
    """Create the tuned model; returns the digest of its manifest. Raises ApiError."""
    api.create(tuning.name, tuning.source, tuning.parameters)
    return next((tag.digest for tag in api.tags() if same(tag.name, tuning.name)), "")


def remove(api: Api, name: str) -> None:
    """Take the tuned model out of Ollama, unloaded first where it is loaded by this name; nothing happens
    where it is not there. Raises ApiError."""
    if not any(same(tag.name, name) for tag in api.tags()):
        return
    if any(same(resident.name, name) for resident in api.ps()):
        api.unload(name)
    api.delete(name)


def not_as_measured(knobs: KnobValues, observation: Observation) -> tuple[str, ...]:
    """What Ollama loaded otherwise than the profile says, without being told any option."""
    report = observation.report
    if report is None:
        return ()
    layers = knobs.gpu_layers
    if layers is not None and report.total_layers is not None:
        layers = min(layers, report.total_layers)
    pairs = (
        ("context", knobs.num_ctx, report.num_ctx),
        ("GPU layers", layers, report.offloaded_layers),
        ("micro-batch", knobs.ubatch if knobs.gpu_layers is not None else None, report.ubatch),
    )
    return tuple(
        f"{word} {found} instead of {wanted}"
        for word, wanted, found in pairs
        if wanted is not None and found is not None and _far(word, wanted, found)
    )


def _far(word: str, wanted: int, found: int) -> bool:
    """The engine rounds a context up to 256 tokens, and Ollama gives a vision model 2048 at least;
    all else has to be the same."""
    return not wanted <= found < max(wanted + 256, 2049) if word == "context" else wanted != found


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
