"""``run_study``: baselines, search, confirmation, soak, answer. Everything is journaled as it happens."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from narthex.errors import UsageError
from narthex.outcomes import Outcome
from narthex.studies import stopping
from narthex.studies.baselines import BaselineSetting
from narthex.studies.conclusion import (
    Answer,
    beside_house,
    best_baseline,
    judge_against,
    limits_of,
    nothing_worked,
    own_best,
    times_as_long,
)
from narthex.studies.confirmation import CONFIRM_LOADS, confirm
from narthex.studies.cost_model import CostModel
from narthex.studies.growth import GROWS, grow
from narthex.studies.notebook import StudyJournal
from narthex.studies.objective import best_record, turn_speeds
from narthex.studies.proof import Soak, prove
from narthex.studies.records import Baseline, Proposal, Question, Stop, StudyResult
from narthex.studies.screen import Screen, Silent
from narthex.studies.session import Identity, Session, summary
from narthex.studies.space import Candidate, Space
from narthex.studies.strategies import guided, strategy
from narthex.trials.trial import Runner, TrialRecord
from narthex.trials.verdict import TIE
from narthex.units import format_count, format_duration, format_loads

MEASURED_OTHERWISE = "measured in another way than the rest, so not compared"
USUAL_TRIES = 5  # loads that a search usually takes, for the estimate of what is left
Spaces = Callable[[Sequence[TrialRecord]], Space]
"""The space under what a history has taught; pure."""


def study_key(question: Question, identity: Identity) -> str:
    """The same question about the same model, engine and host: an unfinished study with it goes on."""
    parts = (question, identity.model.identity, identity.engine, identity.host)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


def run_study(
    question: Question,
    space: Space | Spaces,
    runner: Runner,
    journal: StudyJournal,
    *,
    identity: Identity,
    baselines: Sequence[BaselineSetting] = (),
    soak: Soak | None = None,
    keep: Callable[[StudyResult], str | None] | None = None,
    learn: Callable[[TrialRecord, str], None] | None = None,
    screen: Screen | None = None,
    argv: Sequence[str] = (),
    fresh: bool = False,
    extra: dict[str, Any] | None = None,
    after: Callable[[StudyResult], dict[str, Any]] | None = None,
) -> StudyResult:
    """Answer a question about a model on an engine.

    An unfinished study with the same key goes on unless ``fresh``. ``space`` may depend on what the trials
    taught. ``learn`` gets each new trial with the study's id; ``keep`` stores the result's profile and gives
    its name; ``extra``, and what ``after`` makes of the finished result, go into the result.

    Ctrl-C ends it with what is known: ``finished`` is False. Raises JournalError, UsageError, and EngineError
    where it can't go on now: the same call goes on once that is put right.
    """
    strategy(question.strategy)  # an unknown one is said before anything is begun
    if question.grow not in GROWS:
        raise UsageError(f"A study can't grow «{question.grow}».", hint="It can grow ctx, or nothing.")
    shown = screen or Silent()
    key = study_key(question, identity)
    with journal.lock_study(key):
        row = None if fresh else journal.unfinished_study(key)
        name = (
            row.id
            if row
            else journal.begin_study(
                key=key,
                question=msgspec.json.encode(question),
                model=identity.model,
                engine_key=identity.engine,
                host_key=identity.host,
                argv=argv,
            )
        )
        session = Session(name, question, identity, runner=runner, journal=journal, screen=shown, learn=learn)
        if row:
            known = journal.trials(name)
            session.decide("resume", f"continuing study {name} after {format_count(len(known), 'trial')}")
        spaces = (lambda history: space) if isinstance(space, Space) else space
        study = _Study(session, spaces, baselines, soak)
        result = study.run(row.started_at if row else time.time())
        result = msgspec.structs.replace(result, extra={**(extra or {}), **result.extra})
        if result.finished:
            if after is not None:
                result = msgspec.structs.replace(result, extra={**result.extra, **after(result)})
            if keep is not None and result.chosen is not None:
                result = msgspec.structs.replace(result, profile=keep(result))
            journal.finish_study(name, verdict=result.verdict, result=msgspec.json.encode(result))
        return result


class _Study:
    """The steps of one study, in order."""

    def __init__(
        self, session: Session, spaces: Spaces, baselines: Sequence[BaselineSetting], soak: Soak | None
    ) -> None:
        self.session = session
        self.question = session.question
        self._spaces = spaces
        self._settings = baselines
        self._soak = soak
        self._propose = strategy(self.question.strategy)
        self._began = time.monotonic()
        self.baselines: dict[str, Baseline] = {}
        self.answer: Answer | None = None
        self._judged_against = ""

    @property
    def space(self) -> Space:
        """What may be tried, by what is known now."""
        return self._spaces(self.session.history)

    def run(self, started_at: float) -> StudyResult:
        """All steps. Ctrl-C ends them early."""
        finished = True
        try:
            self._measure_baselines([row for row in self._settings if row.name != "house"])
            if self._everything_fits():
                self._settle_for_a_tie()
            else:
                self._search()
                self._measure_baselines([row for row in self._settings if row.name == "house"])
                confirm(self.session, self.space, list(self.baselines.values()))
            self._conclude()
            if self._soak is not None and self.answer is not None:
                self.answer = prove(self.session, self.space, self.answer, self._soak)
                if self.question.grow:
                    self.answer = grow(
                        self.session, lambda: self.space, self.answer, self._soak, self._no_more
                    )
            if self.answer is not None and self._judged_against != "house":  # else the verdict tells it
                self.answer = beside_house(self.answer, self._house_ratio())
        except KeyboardInterrupt:
            finished = False
            self._conclude_early()
        return self._result(started_at, finished)

    # Baselines.

    def _measure_baselines(self, settings: Sequence[BaselineSetting]) -> None:
        for setting in settings:
            self.baselines[setting.name] = self._baseline(setting)

    def _baseline(self, setting: BaselineSetting) -> Baseline:
        name, knobs, why = setting.name, setting.knobs, setting.why_not
        same = next((r for r in self.session.history if r.trial.knobs == knobs), None)
        if same is not None and not why:
            return Baseline(name=name, knobs=knobs, record=same)
        free = knobs.gpu_layers is None and self.space.recorded
        late = self._out_of_time() if name == "house" else None
        if not why and not free and (stop := self._broken() or self._out_of_loads(0) or late):
            why = f"not measured: {stop.why}"
        if why:
            return Baseline(name=name, knobs=knobs, record=None, why=why)
        record = self.session.measure(
            knobs, f"baseline:{name}", f"baseline «{name}»", setting.turn, setting.repeats
        )
        if not record.observation.counts_as_load and record.observation.outcome is not Outcome.DONE:
            return Baseline(name=name, knobs=knobs, record=None, why=record.observation.reason)
        other_way = knobs.gpu_layers is None and not self.space.engine_comparable
        return Baseline(name=name, knobs=knobs, record=record, why=MEASURED_OTHERWISE if other_way else "")

    # Where nothing is to be gained.

    def _everything_fits(self) -> bool:
        """The engine's own placement has every layer on the GPU, and no setting promises more than a tie."""
        engine = self.baselines.get("engine")
        space = self.space
        if engine is None or engine.record is None or not space.engine_comparable or not space.has_gpu:
            return False
        report, speeds = (
            engine.record.observation.report,
            turn_speeds(engine.record, self.question.turn),
        )
        if speeds is None or report is None or not report.offloaded_layers or report.splits_layers:
            return False
        if report.offloaded_layers < (report.total_layers or space.all_layers):
            return False
        model = CostModel.of(self.question.turn, self.space, self.session.history)
        least = min(model.predict(candidate).turn_s for candidate in self.space.candidates)
        return least > speeds[0] * (1 - TIE)

    def _settle_for_a_tie(self) -> None:
        """One load of the best explicit setting and one more of the engine's: three loads in all."""
        if not self.session.recorded("search") and self._out_of_loads(0) is None:
            self._try_an_explicit_one()
        house = next((row for row in self._settings if row.name == "house"), None)
        if house is not None:
            model = CostModel.of(self.question.turn, self.space, self.session.history)
            share = self.space.cpu_share(house.knobs)
            expected = model.predict(Candidate(knobs=house.knobs, cpu_share=share)).turn_s
            why = f"not measured: {expected:.2f} s a turn by the cost model, no better than the engine's own"
            self.session.decide("skip", f"house defaults {why}", knobs=house.knobs)
            self.baselines["house"] = Baseline(name="house", knobs=house.knobs, record=None, why=why)
        winner = own_best(self.question, self.space, self.session.history)
        engine = self.baselines["engine"]
        if winner is not None and len(self.session.history) < 3 and self._out_of_loads(0) is None:
            self.session.decide(
                "confirm", "everything fits by the engine's own placement: one more load of it"
            )
            self.session.measure(engine.knobs, "repeat:engine", "A/B/A against the engine's own placement")

    def _try_an_explicit_one(self) -> None:
        """A setting with explicit layers has to be loaded before one can be recommended."""
        proposal = guided.safest(self.question, self.space, self.session.history)
        if proposal is not None:
            self._try(proposal)

    # Search.

    def _search(self) -> None:
        for record in self.session.recorded("search"):
            self._tell_best(record)
        reserve = 0 if self.space.recorded else CONFIRM_LOADS
        while True:
            stop = self._broken() or self._out_of_loads(reserve) or self._out_of_time()
            proposal = stop or self._propose(self.question, self.space, self.session.history)
            if isinstance(proposal, Stop):
                self.session.decide("stop", proposal.why)
                break
            self._try(proposal)
        if stop is None and own_best(self.question, self.space, self.session.history) is None:
            self._try_an_explicit_one()

    def _try(self, proposal: Proposal) -> None:
        kind = "backoff" if proposal.why.startswith("backing off") else "try"
        last = self.session.history[-1] if self.session.history else None
        evidence = last.observation.reason if kind == "backoff" and last else ""
        if proposal.expected_turn_s is not None:
            evidence = evidence or f"predicted turn {proposal.expected_turn_s:.2f} s"
        self.session.decide(kind, f"{proposal.knobs.describe()} — {proposal.why}", evidence, proposal.knobs)
        self._tell_eta()
        self._tell_best(self.session.measure(proposal.knobs, "search", proposal.why))

    def _tell_best(self, record: TrialRecord) -> None:
        best = best_record(self.question, self.space.comparable(self.session.history))
        if best is record:
            self.session.screen.best(f"{record.trial.knobs.describe()} · {summary(record)}")

    def _tell_eta(self) -> None:
        """How long it may still take: a few more tries, the confirmation, the soak."""
        history = self.session.history
        if not history or self.space.recorded:
            return
        each = sum(record.seconds for record in history) / len(history)
        tried = sum(record.trial.purpose == "search" for record in history)
        left = max(USUAL_TRIES - tried, 1) + CONFIRM_LOADS
        self.session.screen.eta(left * each + self.question.soak_s)

    def _broken(self) -> Stop | None:
        """Whether the first loads showed that none can work: no such model, a damaged file, a full disk."""
        for record in self.session.history:
            if stopping.broken(record.observation.outcome):
                return stopping.hopeless(self.session.history)
        return None

    def _no_more(self) -> Stop | None:
        return self._out_of_loads(0) or self._out_of_time()

    def _out_of_time(self) -> Stop | None:
        budget = self.question.budget_s
        if budget is None or time.monotonic() - self._began + self.session.earlier_s <= budget:
            return None
        return Stop(why=f"The time that the study may take is used: {format_duration(budget)}.")

    def _out_of_loads(self, reserve: int) -> Stop | None:
        limit = self.question.max_loads
        return stopping.out_of_loads(
            self.session.history, limit - reserve if limit is not None and limit > reserve else limit
        )

    # The answer.

    def _conclude(self) -> None:
        history = self.session.history
        winner = own_best(self.question, self.space, history)
        rival = best_baseline(self.question, self.space, list(self.baselines.values()))
        if winner is None and rival is None:
            self.answer = nothing_worked(history, list(self.baselines.values()))
            self.session.decide("refuse", self.answer.verdict)
            return
        if winner is None:
            assert rival is not None
            self.answer = Answer(
                knobs=rival.knobs, verdict="Only a baseline worked, so it is what is recommended."
            )
        elif rival is None:
            self.answer = Answer(knobs=winner.trial.knobs, verdict=self._alone(winner))
        else:
            self.answer = judge_against(self.question, self.space, winner, rival, history)
        self._judged_against = rival.name if rival else ""
        self.session.decide(
            "tie" if self.answer.tie else "recommend",
            self.answer.verdict,
            self.answer.evidence,
            self.answer.knobs,
        )

    def _house_ratio(self) -> float | None:
        house = self.baselines.get("house")
        chosen = self.answer.knobs if self.answer else None
        if house is None or house.record is None or chosen is None or house.knobs == chosen:
            return None
        return times_as_long(self.question, self.session.history, house.knobs, chosen)

    def _alone(self, winner: TrialRecord) -> str:
        loads = stopping.loads_of(self.session.history)
        return f"The best of {format_loads(loads)}: {summary(winner)}. No baseline could be compared with it."

    def _conclude_early(self) -> None:
        survived = [knobs for knobs, report in self.session.soaks if report.outcome is Outcome.DONE]
        if self.answer is not None and survived:
            verdict = f"{self.answer.verdict} Interrupted while its context was raised."
            self.answer = msgspec.structs.replace(self.answer, knobs=survived[-1], verdict=verdict)
            return
        best = best_record(self.question, self.space.comparable(self.session.history))
        self.answer = Answer(
            knobs=best.trial.knobs if best else None,
            verdict="Interrupted: this is the best so far, not proven."
            if best
            else "Interrupted before a trial succeeded.",
        )

    def _result(self, started_at: float, finished: bool) -> StudyResult:
        session, answer = self.session, self.answer
        chosen = answer.knobs if answer else None
        measured = [r for r in session.history if r.trial.knobs == chosen]
        # A recording's engine placement cost no load and is no point of it: it is a baseline and no trial.
        shown = [
            r for r in session.history if r.trial.knobs.gpu_layers is not None or not self.space.recorded
        ]
        best = best_record(self.question, measured)
        extra: dict[str, Any] = {}
        if best:
            extra["limits"] = limits_of(self.question, self.space, best, session.history)
        if (ratio := self._house_ratio()) is not None:
            extra["house_ratio"] = round(ratio, 3)
        return StudyResult(
            study=session.study,
            question=self.question,
            model=session.identity.model,
            engine=session.identity.engine,
            host=session.identity.host,
            engine_loads=stopping.loads_of(session.history),
            seconds=time.monotonic() - self._began + session.earlier_s,
            started_at=started_at,
            baselines=tuple(self.baselines.values()),
            trials=tuple(shown),
            decisions=tuple(session.decisions),
            chosen=chosen,
            profile=None,
            verdict=answer.verdict if answer else "",
            tie=answer.tie if answer else False,
            soaks=tuple(report for _, report in session.soaks),
            soaked_knobs=tuple(knobs for knobs, _ in session.soaks),
            finished=finished,
            extra=extra,
        )
