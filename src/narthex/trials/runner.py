"""``EngineRunner``: answers a trial with a real engine, in a child that can die. Always ends in data."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex.engines._base import (
    Engine,
    Failure,
    LaunchFailed,
    Loader,
    LoadReport,
    RunningEngine,
    StopReport,
)
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.outcomes import Outcome
from narthex.trials.observation import Observation
from narthex.trials.probes import Probes, Readings, machine_bandwidth
from narthex.trials.roofline import Bandwidth, roofline_share
from narthex.trials.session import Session
from narthex.trials.trial import Trial, Watch
from narthex.trials.turns import Turns, too_long
from narthex.trials.verdict import WIDE_SPREAD
from narthex.trials.workload import WORKLOADS, Prompts
from narthex.units import format_duration, format_rate

RETURNS = 2
"""How often a trial or a soak begins anew after its server went down and came back."""


class EngineRunner:
    """Runs trials of one model on one engine, each with a fresh load.

    ``prompts``: the user's own; without it each trial gets those of its workload.
    """

    def __init__(self, loader: Loader, inspection: Inspection, *, prompts: Prompts | None = None) -> None:
        self.inspection = inspection
        self._loader = loader
        self._prompts = prompts

    @property
    def engine(self) -> Engine:
        """What the trials run on."""
        return self._loader.engine

    def run(self, trial: Trial, watch: Watch) -> Observation:
        """Load, warm up, time, stop. Failures are data; only KeyboardInterrupt gets out."""
        if why := too_long(trial.turn, trial.knobs):
            return Observation(outcome=Outcome.UNSUPPORTED_SETTING, reason=why, counts_as_load=False)
        downs = 0
        while True:
            seen = self._once(trial, watch)
            if seen.outcome is not Outcome.SERVER_DOWN:
                return _after_downs(seen, downs)
            downs += 1
            if not self.came_back(watch):
                return msgspec.structs.replace(_after_downs(seen, downs - 1), counts_as_load=False)
            if downs > RETURNS:
                reason = f"The server went down each of {downs} times: {seen.reason}"
                return msgspec.structs.replace(seen, reason=reason)

    def _once(self, trial: Trial, watch: Watch) -> Observation:
        bandwidth, missing = machine_bandwidth()
        try:
            engine = self.launch(trial, watch)
        except LaunchFailed as failed:
            return _not_loaded(failed)
        with engine:
            seen_from_here = engine.pid is not None or engine.cards_before is not None
            turns = Turns(
                Session(engine, self.prompts_for(trial)), trial, slot_ctx(engine, trial.knobs), watch
            )
            with Probes(engine) as probes:
                failure = turns.warm_up()
                if failure is None:
                    with probes.timing():
                        failure = turns.repeat()
                failure = failure or turns.near_end()
            watch("stopping", None)
            stopped = engine.stop()
        bandwidth = bandwidth if seen_from_here else Bandwidth()
        observation = _observation(engine, turns, failure, probes.read(), stopped)
        share = self._bandwidth_share(trial, observation, bandwidth)
        gaps = (*observation.gaps, *missing, *self._other_prompts(trial), *_gaps(trial, engine.report, share))
        return msgspec.structs.replace(observation, bandwidth_share=share, gaps=gaps)

    def launch(self, trial: Trial, watch: Watch) -> RunningEngine:
        """The engine with the trial's setting, ready. Raises LaunchFailed. Use it as a context manager."""
        return self._loader.load(trial.knobs, watch)

    def came_back(self, watch: Watch) -> bool:
        """After ``Outcome.SERVER_DOWN``: whether the server answers again. Waits for it."""
        return self._loader.came_back(watch)

    def prompts_for(self, trial: Trial) -> Prompts:
        """The user's own prompts, else those of the trial's workload."""
        if self._prompts is not None:
            return self._prompts
        return Prompts(trial.workload if trial.workload in WORKLOADS else "chat")

    def _other_prompts(self, trial: Trial) -> tuple[str, ...]:
        if self._prompts is not None or trial.workload in WORKLOADS:
            return ()
        return ("Workload: the user's own prompts were not given; «chat» was asked.",)

    def _bandwidth_share(self, trial: Trial, observation: Observation, bandwidth: Bandwidth) -> float | None:
        report, speed = observation.report, observation.decode_tps
        if report is None or speed is None or report.splits_layers or trial.knobs.parallel > 1:
            return None  # several streams share one reading of the weights
        layers: int | None = 0
        if self.engine.devices:
            told = report.offloaded_layers
            layers = told if told is not None else trial.knobs.gpu_layers
        if layers is None:
            return None
        knobs = trial.knobs.with_(gpu_layers=layers)
        depth = trial.turn.depth + trial.turn.prompt_tokens
        return roofline_share(self.inspection, knobs, speed, bandwidth, depth=depth)


def slot_ctx(engine: RunningEngine, knobs: KnobValues) -> int:
    """Tokens of one slot: as asked for, or less where the engine cut it; what it rounds up is not used."""
    return min(engine.report.num_ctx or knobs.num_ctx, knobs.num_ctx)


def _not_loaded(failed: LaunchFailed) -> Observation:
    failure = failed.failure
    return Observation(
        outcome=failure.outcome,
        reason=failure.line,
        load_s=failed.load_s,
        requested_bytes=failure.requested_bytes,
    )


def _after_downs(seen: Observation, downs: int) -> Observation:
    if not downs:
        return seen
    times = "once" if downs == 1 else f"{downs} times"
    doubt = f"the server went down {times} under way, and the trial began anew"
    return msgspec.structs.replace(seen, doubts=(*seen.doubts, doubt))


def _observation(
    engine: RunningEngine, turns: Turns, failure: Failure | None, readings: Readings, stopped: StopReport
) -> Observation:
    joules = readings.joules
    measured = Observation(
        outcome=failure.outcome if failure else Outcome.DONE,
        reason=failure.line if failure else "",
        load_s=engine.load_s,
        turns=tuple(turns.timings),
        end_turns=tuple(turns.end_timings),
        report=engine.report,
        peaks=readings.peaks,
        joules=joules,
        tokens_per_joule=turns.generated / joules if joules and turns.generated else None,
        requested_bytes=failure.requested_bytes if failure else None,
        gaps=(*engine.report.gaps, *turns.gaps, *readings.gaps),
    )
    return msgspec.structs.replace(
        measured,
        reason=measured.reason or _sentence(measured),
        doubts=(*turns.doubts, *readings.doubts, *_doubts(measured, engine, stopped)),
    )


def _sentence(observation: Observation) -> str:
    if observation.turn_s is None:
        return "Done, but the engine told no speed."
    return (
        f"A turn takes {format_duration(observation.turn_s)}: reads {format_rate(observation.prompt_tps)}, "
        f"writes {format_rate(observation.decode_tps)}."
    )


def _doubts(observation: Observation, engine: RunningEngine, stopped: StopReport) -> Iterator[str]:
    if words := engine.disturbed():
        yield words
    spread = observation.spread
    if spread is not None and spread > WIDE_SPREAD:
        yield f"the repeats differ by {spread:.0%}"
    if stopped.vram_back is False:
        yield "the GPU memory did not come back after the engine was stopped"


def _gaps(trial: Trial, report: LoadReport, share: float | None) -> Iterator[str]:
    if report.num_ctx is not None and report.num_ctx < trial.knobs.num_ctx:
        yield f"Context: the engine cut it to {report.num_ctx} tokens a slot."
    if share is None:
        several = trial.knobs.parallel > 1
        why = (
            "several streams share one reading of the weights"
            if several
            else "a bandwidth or the speed is unknown"
        )
        yield f"Share of the bandwidth limit: {why}."
