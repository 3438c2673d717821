"""Proof: the answer has to survive a soak. A failed one backs off one parameter and soaks again."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.backoff import back_off
from narthex.studies.conclusion import Answer, own_best
from narthex.studies.records import Stop
from narthex.studies.session import Session
from narthex.studies.space import Space
from narthex.studies.stopping import OTHERS
from narthex.trials.soak import SoakLimit, SoakReport
from narthex.trials.trial import Trial, Watch

MOST_SOAKS = 4
_NO_LESS_RAM = (
    "Main memory ran short: fewer GPU layers would take more of it, and nothing else is left to lower."
)
Soak = Callable[[Trial, float, Watch], SoakReport]
"""Soaks one setting for so many seconds: ``trials.soak.soak`` with its runner."""


def prove(session: Session, space: Space, answer: Answer, soak: Soak) -> Answer:
    """The answer that survived, or one that recommends nothing.

    Raises KeyboardInterrupt when stopped, EngineError when the study can't go on now.
    """
    knobs, report = answer.knobs, None
    if session.question.soak_s <= 0 or knobs is None:
        return answer
    for _ in range(MOST_SOAKS):
        report = soak_once(session, knobs, soak)
        if report.outcome in OTHERS:
            session.decide("soak", "cut off by others, so once more", report.reason, knobs)
            continue
        if report.outcome is Outcome.DONE:
            session.decide("soak", f"survived {report.seconds:.0f} s", report.reason, knobs)
            if knobs == answer.knobs:
                return answer
            verdict = f"{answer.verdict} Its soak failed, so it was backed off to {knobs.describe()}."
            return msgspec.structs.replace(answer, knobs=knobs, verdict=verdict, tie=False)
        step = _lower(session, space, knobs, report)
        if step is None:
            break
        knobs = step
    if report is not None and report.outcome in OTHERS:
        verdict = f"{answer.verdict} It is not proven: its soak was cut off each time ({report.reason})."
        session.decide("soak", "not proven: cut off each time", report.reason, knobs)
        return msgspec.structs.replace(answer, knobs=knobs, verdict=verdict)
    verdict = "Nothing is recommended: no setting survived its soak."
    session.decide("refuse", verdict)
    return Answer(knobs=None, verdict=verdict)


def soak_once(session: Session, knobs: KnobValues, soak: Soak) -> SoakReport:
    """Soak one setting and write it down, or hand out its recorded soak. Raises as :func:`prove` does."""
    if recorded := session.recorded_soak(knobs):
        return recorded
    question, identity = session.question, session.identity
    trial = Trial(
        model=identity.model,
        engine_key=identity.engine,
        host_key=identity.host,
        knobs=knobs,
        turn=question.turn,
        workload=question.workload,
        repeats=1,
        purpose="soak",
    )
    session.screen.trial(len(session.history) + 1, knobs.describe(), "soak")
    session.screen.eta(question.soak_s)
    report = soak(trial, question.soak_s, session.screen.watch)
    if report.outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    if report.outcome is Outcome.SERVER_DOWN:
        session.server_down(knobs, report.reason)
    session.must_go_on(report.outcome, report.reason)
    session.keep_soak(knobs, report)
    return report


def _lower(session: Session, space: Space, knobs: KnobValues, report: SoakReport) -> KnobValues | None:
    """The next setting that still loads and runs, one parameter lower each time."""
    failed, evidence = report.outcome, report.reason
    order, in_ram = session.question.backoff_order, short_of_main_memory(report)
    if in_ram:  # layers that leave the card go to main memory
        order = tuple(word for word in order if word != "gpu_layers")
    while True:
        # What ran well in the search may be soaked: only what failed is behind us.
        behind = [record for record in session.history if record.observation.outcome is not Outcome.DONE]
        step = back_off(knobs, failed, space, order, space.min_ctx, behind)
        if isinstance(step, Stop):
            if (other := _from_the_search(session, space, knobs)) is not None:
                why = f"{failed.value.replace('_', ' ')}: the best setting of the search instead"
                session.decide("backoff", why, evidence, other)
                return other
            session.decide("stop", _NO_LESS_RAM if in_ram else step.why, evidence)
            return None
        session.decide("backoff", step.why, evidence, step.knobs)
        observation = session.measure(step.knobs, "backoff", step.why).observation
        if observation.outcome is Outcome.DONE or observation.outcome in OTHERS:
            return step.knobs  # what others cut off its soak will tell
        knobs, failed, evidence = step.knobs, observation.outcome, observation.reason


def short_of_main_memory(report: SoakReport) -> bool:
    """Whether it was main memory that a soak broke on, and not the card's."""
    ended = {Outcome.KILLED_BY_KERNEL, Outcome.HOST_OUT_OF_MEMORY}
    return report.broke is SoakLimit.MAIN_MEMORY or report.outcome in ended


def _from_the_search(session: Session, space: Space, knobs: KnobValues) -> KnobValues | None:
    """What a baseline's failed soak leaves: the search's own best, since a baseline has no neighbours in the
    space to step down to. None where that is none, or was soaked already."""
    best = own_best(session.question, space, session.history)
    if best is None or space.find(knobs) is not None:
        return None
    soaked = [tried for tried, _ in session.soaks]
    return None if best.trial.knobs in soaked else best.trial.knobs
