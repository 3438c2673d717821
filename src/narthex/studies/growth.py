"""Growth: after its proof the context rises, one step of the ladder at a time, each measured and soaked.

What failed is never the answer: the setting soaked last stays. Everything that was measured is handed out
again when a study goes on, so growth goes on as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp

import msgspec

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.backoff import changes_words, turned
from narthex.studies.conclusion import Answer, turn_s_of
from narthex.studies.cost_model import CostModel, Prediction
from narthex.studies.feasibility import Feasibility, needs_as_much
from narthex.studies.live_space import DEMO_CTX
from narthex.studies.objective import LEAST_DECODE_TPS, turn_speeds
from narthex.studies.proof import Soak, soak_once
from narthex.studies.records import Goal, Question, Stop
from narthex.studies.session import Session, summary
from narthex.studies.space import CTX_LADDER, Candidate, Space
from narthex.trials.trial import TrialRecord

GROWS = ("", "ctx")  # what a question may ask to grow
PURPOSE = "grow"
SLOWER = (
    1.25  # a turn may take this much longer than that of the study's answer, unless «longest» is the goal
)
LIKELY = 0.5  # a step is tried where it fits rather than not


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next setting with more context. ``on_the_way``: one knob turned after the other, it at the end."""

    knobs: KnobValues
    on_the_way: tuple[KnobValues, ...]
    why: str
    expected: Prediction | None


def grow(
    session: Session,
    space: Callable[[], Space],
    answer: Answer,
    soak: Soak,
    no_more: Callable[[], Stop | None],
) -> Answer:
    """The answer with as much context as could be proven. ``no_more`` tells when loads or time are used.

    Raises KeyboardInterrupt when stopped, EngineError when the study can't go on now.
    """
    soaked = [knobs for knobs, report in session.soaks if report.outcome is Outcome.DONE]
    proven = answer.knobs
    if proven is None or proven not in soaked:
        if proven is not None:
            session.decide("grow", "the context stays: only what survived its soak may grow")
        return answer
    allowed = turn_s_of(session.question, session.history, proven)
    while True:
        step = next_step(session.question, space(), session.history, proven, allowed)
        if isinstance(step, Stop):
            session.decide("grow", f"the context stays at {proven.num_ctx}: {step.why}", knobs=proven)
            break
        used = None if session.is_recorded(step.knobs, PURPOSE) else no_more()
        if used is not None:
            session.decide("grow", f"the context stays at {proven.num_ctx}: {used.why}", knobs=proven)
            break
        failed = _take(session, proven, step, allowed, soak)
        if failed:
            session.decide("grow", f"back to {proven.describe()}, which was soaked last", failed, proven)
            break
        session.decide("grow", f"a context of {step.knobs.num_ctx} is proven", knobs=step.knobs)
        proven = step.knobs
    if proven == answer.knobs:
        return answer
    assert answer.knobs is not None
    raised = f"raised from {answer.knobs.num_ctx} to {proven.num_ctx} tokens, each step soaked"
    return msgspec.structs.replace(
        answer, knobs=proven, verdict=f"{answer.verdict} Its context was {raised}.", tie=False
    )


def next_step(
    question: Question,
    space: Space,
    history: Sequence[TrialRecord],
    proven: KnobValues,
    allowed_s: float | None,
) -> Step | Stop:
    """One step of the ladder up from a proven setting, or why there is none. Pure.

    The other knobs stay where that fits by the plan. Else it is the best setting of the space with that
    context, by the cost model; one that differs in a single other knob goes before others. ``allowed_s``: the
    turn time that 25 % are counted from.
    """
    most = max(space.values("num_ctx"), default=0)
    above = [ctx for ctx in (*CTX_LADDER, most) if proven.num_ctx < ctx <= most]
    if not above:
        return Stop(why=_no_step(question, most))
    num_ctx = min(above)
    model = CostModel.of(question.turn, space, history)
    feasibility = Feasibility(space, history, lambda candidate: model.predict(candidate).turn_s)
    kept = proven.with_(num_ctx=num_ctx)
    if proven.gpu_layers is None:
        failed = any(r.trial.knobs == kept and r.observation.outcome is not Outcome.DONE for r in history)
        if failed:
            return Stop(why=f"the engine's own placement failed with {num_ctx}.")
        return Step(knobs=kept, on_the_way=(kept,), why="the engine places the layers anew", expected=None)
    likely = [
        (candidate, model.predict(candidate))
        for candidate in _with_context(space, kept)
        if feasibility.chance(candidate) >= LIKELY
    ]
    if not likely:
        return Stop(why=f"nothing with {num_ctx} is likely to fit.")
    candidate, expected = min(likely, key=lambda row: _order(question, allowed_s, kept, *row))
    if why := _too_slow(question, expected, allowed_s):
        return Stop(why=f"a context of {num_ctx} {why}")
    return Step(
        knobs=candidate.knobs,
        on_the_way=_one_by_one(proven, candidate.knobs),
        why=_why(candidate, expected),
        expected=expected,
    )


def _no_step(question: Question, most: int) -> str:
    """Why the space holds no more context."""
    if "num_ctx" in question.pins:
        return "it is what you fixed."
    if question.demo and most >= max(question.min_ctx or 0, DEMO_CTX):
        return "a demo goes no further."
    return "by the plan no setting has more, or the model was trained for no more."


def _with_context(space: Space, kept: KnobValues) -> list[Candidate]:
    """What the space has with that context, and ``kept`` itself where one that needs more of it fits."""
    found = [candidate for candidate in space.candidates if candidate.knobs.num_ctx == kept.num_ctx]
    larger = [row for row in found if needs_as_much(row.knobs, kept)]
    if not larger or any(row.knobs == kept for row in found):
        return found
    least = min(larger, key=lambda row: row.need_bytes or 0)
    mine = msgspec.structs.replace(least, knobs=kept, cpu_share=space.cpu_share(kept))
    return [mine, *found]


def _order(
    question: Question,
    allowed_s: float | None,
    kept: KnobValues,
    candidate: Candidate,
    expected: Prediction,
) -> tuple[bool, int, float]:
    """Fast enough first, then fewest other knobs turned, then least turn time."""
    slow = _too_slow(question, expected, allowed_s) is not None
    return slow, len(turned(kept, candidate.knobs)), expected.turn_s


def _one_by_one(proven: KnobValues, target: KnobValues) -> tuple[KnobValues, ...]:
    """The settings on the way, one knob turned at each: what makes room first, the context last."""
    ways, now = [], proven
    for name in (*sorted(turned(proven, target) - {"num_ctx"}), "num_ctx"):
        now = now.with_(**{name: getattr(target, name)})
        if name == "ubatch":
            now = now.with_(batch=target.batch)
        ways.append(now)
    return tuple(ways)


def _why(candidate: Candidate, expected: Prediction) -> str:
    margin = candidate.margin_bytes
    fits = "fits by the plan" if margin is None or margin >= 0 else "may fit"
    return f"{fits}, predicted turn {expected.turn_s:.2f} s"


def _too_slow(question: Question, expected: Prediction, allowed_s: float | None) -> str | None:
    """Why a prediction is too slow even where it is wrong by its own doubt."""
    hoped = exp(-expected.sigma)
    if question.goal is Goal.LONGEST:
        least = question.min_decode_tps or LEAST_DECODE_TPS
        if expected.decode_tps / hoped < least:
            return f"would decode {expected.decode_tps:.1f} tokens/s by the cost model; {least:g} are needed."
    elif allowed_s and expected.turn_s * hoped > allowed_s * SLOWER:
        return f"would take {expected.turn_s / allowed_s - 1:.0%} longer a turn by the cost model."
    return None


def _take(
    session: Session, proven: KnobValues, step: Step, allowed_s: float | None, soak: Soak
) -> str | None:
    """Measure and soak one step. Returns why it failed; None where it is proven."""
    before = proven
    for knobs in step.on_the_way:
        words, before = ", ".join(changes_words(before, knobs)), knobs
        room = f"makes room for a context of {step.knobs.num_ctx}"
        why = step.why if knobs == step.knobs else room
        session.decide("grow", f"{words} — {why}", knobs=knobs)
    record = session.measure(step.knobs, PURPOSE, f"context {proven.num_ctx} → {step.knobs.num_ctx}")
    if record.observation.outcome is not Outcome.DONE:
        return summary(record)
    if slow := _measured_too_slow(session.question, record, allowed_s):
        return slow
    report = soak_once(session, step.knobs, soak)
    return None if report.outcome is Outcome.DONE else f"{report.outcome.value}: {report.reason}"


def _measured_too_slow(question: Question, record: TrialRecord, allowed_s: float | None) -> str | None:
    speeds = turn_speeds(record, question.turn)
    if speeds is None:
        return "no turn could be timed"
    if question.goal is Goal.LONGEST:
        least = question.min_decode_tps or LEAST_DECODE_TPS
        return f"{speeds[1]:.1f} tokens/s; {least:g} are needed" if speeds[1] < least else None
    if allowed_s and speeds[0] > allowed_s * SLOWER:
        return (
            f"a turn takes {speeds[0]:.2f} s, {speeds[0] / allowed_s - 1:.0%} longer than {allowed_s:.2f} s"
        )
    return None
