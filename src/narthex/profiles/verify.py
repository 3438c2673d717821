"""Whether a profile still holds: one trial of its setting, judged against what was measured then. Pure."""

from __future__ import annotations

import msgspec

from narthex.engines._base import Engine
from narthex.host.facts import HostFacts
from narthex.outcomes import Outcome
from narthex.profiles.choose import card
from narthex.profiles.profile import Profile
from narthex.trials.observation import Observation
from narthex.trials.trial import Trial
from narthex.units import format_duration

TOLERANCE = 0.15  # a turn may take this much longer; single trials of one setting differ by some per cent


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``narthex profile verify``."""

    holds: bool
    text: str  # one or two sentences
    turn_s: float | None
    turn_s_then: float | None


def trial_for(profile: Profile, engine: Engine, host: HostFacts) -> Trial:
    """The profile's own trial, asked of today's engine and machine."""
    return Trial(
        model=profile.model,
        engine_key=engine.key,
        host_key=host.key,
        knobs=profile.knobs,
        turn=profile.turn,
        workload=profile.workload,
        repeats=profile.repeats,
        purpose="verify",
    )


def judge(profile: Profile, observation: Observation) -> Verification:
    """It holds when the trial was done, up to a full context, and a turn took no more than 15 % longer."""
    now, then = observation.turn_s, profile.turn_s
    holds, text = _verdict(observation, now, then)
    if holds and profile.proven:
        text = f"Proven again: {text} Its soak lasted {format_duration(profile.soak_s)}."
    elif holds:
        text = f"It holds: {text} It was never soaked, so it is still not proven."
    else:
        text = f"Not proven: {text}"
    return Verification(holds=holds, text=text, turn_s=now, turn_s_then=then)


def _verdict(observation: Observation, now: float | None, then: float | None) -> tuple[bool, str]:
    if observation.outcome is not Outcome.DONE:
        return False, f"the trial ended with {observation.outcome.value}: {observation.reason}"
    if now is None:
        return False, "the trial was done, but no turn could be timed."
    if then is None:
        return True, f"a turn took {format_duration(now)}; there is no older figure to compare with."
    text = f"a turn took {format_duration(now)}; it was {format_duration(then)}"
    if now > then * (1 + TOLERANCE):
        return False, f"{text}, so it is {now / then - 1:.0%} slower (at most {TOLERANCE:.0%} is allowed)."
    return True, text + "."


def is_only_slower(profile: Profile, observation: Observation) -> bool:
    """Whether a trial was done, and nothing but the time of its turn speaks against the profile. On a machine
    that others use, one such trial is no proof."""
    slow = observation.outcome is Outcome.DONE and observation.turn_s is not None
    return slow and not judge(profile, observation).holds


def quicker(first: Observation, again: Observation) -> Observation:
    """Of two trials of one setting the one whose turn took less: noise only ever adds time."""
    if again.outcome is not Outcome.DONE or again.turn_s is None:
        return first
    return again if first.turn_s is None or again.turn_s < first.turn_s else first


def after_verify(
    profile: Profile, verification: Verification, engine: Engine, host: HostFacts, *, at: float
) -> Profile:
    """The profile with this check written on it. When it holds, it belongs to today's engine and machine."""
    checked = msgspec.structs.replace(profile, verified_at=at, verified=verification.holds)
    if not verification.holds:
        return checked
    return msgspec.structs.replace(
        checked,
        engine_key=engine.key,
        engine_build=engine.build,
        engine_args=engine.extra_args,
        host_key=host.key,
        gpu=card(engine, host),
        driver=host.driver,
    )
