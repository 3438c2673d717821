"""From a study's result to a profile: a pure step."""

from __future__ import annotations

import re
import time
import unicodedata
from statistics import median

import msgspec

from narthex.engines._base import Engine
from narthex.engines.ollama.names import TAG, short
from narthex.errors import ProfileError
from narthex.host.facts import HostFacts
from narthex.outcomes import Outcome
from narthex.profiles.profile import Profile
from narthex.studies.records import StudyResult
from narthex.studies.stopping import OTHERS
from narthex.trials.soak import SoakReport
from narthex.trials.trial import TrialRecord


def profile_from(
    result: StudyResult,
    *,
    engine: Engine,
    host: HostFacts,
    reserve_bytes: int | None = None,
    created_at: float | None = None,
) -> Profile:
    """The study's winner as a profile, with what it was true of.

    ``reserve_bytes`` is the VRAM that the study kept free; by default what its question asked for.
    Raises ProfileError when the study recommends nothing, or has no model (a replay).
    """
    if result.chosen is None or result.model is None:
        raise ProfileError(
            "This study recommends nothing, so there is no profile.", hint="Its verdict: " + result.verdict
        )
    trials = _winners_trials(result)
    soaks = [
        report
        for report, knobs in zip(result.soaks, result.soaked_knobs, strict=False)
        if knobs == result.chosen
    ]
    reserve = result.question.reserve_bytes if reserve_bytes is None else reserve_bytes
    profile = Profile(
        name="",
        model=result.model,
        engine_kind=engine.kind,
        engine_key=engine.key,
        engine_build=engine.build,
        engine_args=engine.extra_args,
        host_key=host.key,
        gpu=card(engine, host),
        driver=host.driver,
        goal=result.question.goal.value,
        knobs=result.chosen,
        turn=result.question.turn,
        workload=result.question.workload,
        repeats=result.question.repeats,
        turn_s=_median(trials, "turn_s"),
        decode_tps=_median(trials, "decode_tps"),
        prompt_tps=_median(trials, "prompt_tps"),
        soak_s=sum(report.seconds for report in soaks if report.outcome is Outcome.DONE),
        proven=bool(soaks) and soaks[-1].outcome is Outcome.DONE,
        demo=result.question.demo,
        verdict=result.verdict,
        study=result.study,
        reserve_bytes=reserve or 0,
        vram_peak_bytes=_vram_peak(trials, soaks),
        created_at=time.time() if created_at is None else created_at,
    )
    return msgspec.structs.replace(profile, name=name_for(profile))


def with_soak(profile: Profile, report: SoakReport) -> Profile:
    """The profile after one more soak: a good one adds its seconds, a bad one takes the proof away.

    One that the user stopped adds what it survived, and proves or disproves nothing; nor does one that others
    cut off, as with a queue that is full.
    """
    stopped = report.outcome is Outcome.INTERRUPTED
    good = report.outcome is Outcome.DONE
    return msgspec.structs.replace(
        profile,
        soak_s=profile.soak_s + (report.seconds if good or stopped else 0.0),
        proven=profile.proven if stopped or report.outcome in OTHERS else good,
    )


def name_for(profile: Profile) -> str:
    """``<model>-<goal>-<ctx>``, as in ``deepseek-r1-32b-fastest-8k``: no spaces, fit for a shell.

    A model that a server knows by name goes by that name: it is what its user types.
    """
    by_name = profile.engine_kind == "ollama" and profile.model.served_as
    known = short(profile.model.served_as).removesuffix(f":{TAG}") if by_name else ""
    parts = [
        _slug(known) or _slug(profile.model.name) or "model",
        profile.goal,
        _short_ctx(profile.knobs.num_ctx),
    ]
    if profile.knobs.parallel > 1:
        parts[-1] += f"x{profile.knobs.parallel}"
    if by_name and profile.knobs.kv_type != "f16":
        parts.append(profile.knobs.kv_type)  # another server's answer: it does not take this one's place
    if profile.demo:
        parts.append("demo")  # a demo never takes the place of a real answer
    return "-".join(parts)


def card(engine: Engine, host: HostFacts) -> str | None:
    """What the engine computes on beside the CPU: NVML's names, else the engine's own; None on a CPU."""
    if not engine.devices:
        return None
    names = [gpu.name for gpu in host.gpus] or [device.description for device in engine.devices]
    return " + ".join(names)


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-.")


def _short_ctx(num_ctx: int) -> str:
    return f"{num_ctx // 1024}k" if num_ctx % 1024 == 0 else str(num_ctx)


def _winners_trials(result: StudyResult) -> list[TrialRecord]:
    """The winner's good trials; where it was confirmed A/B/A/B only those, since they are the fair ones."""
    baselines = [row.record for row in result.baselines if row.record is not None]
    mine = [
        record
        for record in (*result.trials, *baselines)
        if record.trial.knobs == result.chosen and record.observation.outcome is Outcome.DONE
    ]
    return [record for record in mine if record.trial.purpose.startswith("confirm")] or mine


def _median(trials: list[TrialRecord], name: str) -> float | None:
    turns = [turn for record in trials for turn in record.observation.turns]
    values = [value for turn in turns if (value := getattr(turn, name)) is not None]
    return median(values) if values else None


def _vram_peak(trials: list[TrialRecord], soaks: list[SoakReport]) -> int | None:
    seen = [record.observation.peaks.vram_bytes for record in trials]
    seen += [sample.vram_bytes for report in soaks for sample in report.samples]
    return max((count for count in seen if count is not None), default=None)
