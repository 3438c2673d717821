"""What has changed under a profile since it was made: build, card, driver, machine, file."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.engines._base import Engine
from narthex.host.facts import HostFacts
from narthex.models.inspection import Inspection
from narthex.profiles.choose import card
from narthex.profiles.profile import Profile
from narthex.units import format_size


def engine_for(profile: Profile, engines: Sequence[Engine]) -> Engine | None:
    """The engine that the profile was made with, else one of the same build, else one of its kind."""
    mine = [engine for engine in engines if engine.kind == profile.engine_kind]
    for wanted in (
        [engine for engine in mine if engine.key == profile.engine_key],
        [engine for engine in mine if engine.build == profile.engine_build],
        mine,
    ):
        if wanted:
            return wanted[0]
    return None


def changes(
    profile: Profile, engine: Engine | None, host: HostFacts, inspection: Inspection | None
) -> tuple[str, ...]:
    """One short sentence for each thing that is not as it was; empty when nothing changed.

    ``engine`` None: none of this kind is found. ``inspection`` None: the file is gone or can't be read.
    """
    found = [*_model_changes(profile, inspection), *_engine_changes(profile, engine)]
    machine = _machine_changes(profile, engine, host)
    if not machine and host.key != profile.host_key:
        machine = ["the machine is another one, or its CPU, RAM or cards changed"]
    return tuple(found + machine)


def _model_changes(profile: Profile, inspection: Inspection | None) -> list[str]:
    model = profile.model
    if inspection is None:
        return [f"the model file {model.path} is gone or can't be read"]
    if inspection.identity != model.identity:
        return [f"the file {model.path} is another model now (it was {model.name})"]
    if model.file_bytes and inspection.file_bytes != model.file_bytes:
        now, then = format_size(inspection.file_bytes), format_size(model.file_bytes)
        return [f"the model file has {now} now; it had {then}"]
    return []


def _engine_changes(profile: Profile, engine: Engine | None) -> list[str]:
    if engine is None:
        return [f"no {profile.engine_kind} is found any more"]
    if engine.build != profile.engine_build:
        return [f"{engine.kind} is {engine.build} now; it was {profile.engine_build}"]
    if engine.key != profile.engine_key:
        return [f"the engine's devices changed: «{engine.key}» now, «{profile.engine_key}» then"]
    return []


def _machine_changes(profile: Profile, engine: Engine | None, host: HostFacts) -> list[str]:
    found = []
    if engine is not None and card(engine, host) != profile.gpu:
        found.append(f"the card is {card(engine, host) or 'none'} now; it was {profile.gpu or 'none'}")
    if host.driver != profile.driver:
        found.append(f"the GPU driver is {host.driver or 'none'} now; it was {profile.driver or 'none'}")
    return found
