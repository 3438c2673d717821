"""``Session``: a study while it runs. It measures, decides and writes both down as they happen.

A study that was cut off goes on: the trials in the journal are handed out again, in order, instead of being
run, and a decision that is already written is not written twice. So everything above it can be told as
if the study ran in one go.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import msgspec

from narthex.errors import EngineError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies import stopping
from narthex.studies.notebook import StudyJournal
from narthex.studies.records import Decision, Question
from narthex.studies.screen import Screen
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, Runner, Trial, TrialRecord, Turn
from narthex.units import format_duration, format_rate

MOST_DOWN = 3  # a server that goes down so often while it runs one setting does so because of it
GO_ON = "run the same command again: it goes on where it stopped, and counts nothing twice."


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is about: with its question, this is its key."""

    model: ModelRef
    engine: str
    host: str


class Session:
    """One running study."""

    def __init__(
        self,
        study: str,
        question: Question,
        identity: Identity,
        *,
        runner: Runner,
        journal: StudyJournal,
        screen: Screen,
        learn: Callable[[TrialRecord, str], None] | None = None,
    ) -> None:
        self.study = study
        self.question = question
        self.identity = identity
        self.screen = screen
        self.history: list[TrialRecord] = []
        self.soaks: list[tuple[KnobValues, SoakReport]] = []
        self._runner = runner
        self._learn = learn
        self._journal = journal
        self._recorded = journal.trials(study)
        self._recorded_soaks = [(row.knobs, row.report) for row in journal.soaks(study=study)]
        rows = journal.decisions(study)
        self.decisions = [
            Decision(sequence=r.sequence, kind=r.kind, text=r.text, evidence=r.evidence, knobs=r.knobs)
            for r in rows
        ]
        self._written = Counter((row.kind, row.text, row.knobs) for row in rows)
        self._next_sequence = max((record.sequence for record in self._recorded), default=0) + 1
        self.earlier_s = sum(record.seconds for record in self._recorded) + sum(
            report.seconds for _, report in self._recorded_soaks
        )

    def decide(self, kind: str, text: str, evidence: str = "", knobs: KnobValues | None = None) -> None:
        """Write down one step with its reason, unless the study before the cut already did."""
        if self._written[kind, text, knobs] > 0:
            self._written[kind, text, knobs] -= 1
            return
        sequence = max((decision.sequence for decision in self.decisions), default=0) + 1
        self._journal.append_decision(self.study, sequence, kind, text, evidence, knobs)
        self.decisions.append(
            Decision(sequence=sequence, kind=kind, text=text, evidence=evidence, knobs=knobs)
        )
        if kind not in {"try", "resume"}:
            self.screen.note(f"{kind}: {text}")

    def recorded(self, purpose: str) -> list[TrialRecord]:
        """Hand out every recorded trial of a purpose, in order; they count as history from here on."""
        found = [record for record in self._recorded if record.trial.purpose == purpose]
        self._recorded = [record for record in self._recorded if record.trial.purpose != purpose]
        self.history.extend(found)
        return found

    def measure(
        self,
        knobs: KnobValues,
        purpose: str,
        why: str = "",
        turn: Turn | None = None,
        repeats: int | None = None,
    ) -> TrialRecord:
        """Run one setting, or hand out its recorded trial, and write it down.

        Raises KeyboardInterrupt when the user stops it, and EngineError when the study can't go on now, as
        without its server; nothing of the trial in flight is kept.
        """
        trial = Trial(
            model=self.identity.model,
            engine_key=self.identity.engine,
            host_key=self.identity.host,
            knobs=knobs,
            turn=turn or self.question.turn,
            workload=self.question.workload,
            repeats=repeats or self.question.repeats,
            purpose=purpose,
        )
        for index, record in enumerate(self._recorded):
            if record.trial.key == trial.key and record.trial.purpose == purpose:  # the file may have moved
                del self._recorded[index]
                self.history.append(record)
                return record
        self.screen.trial(len(self.history) + 1, knobs.describe(), why)
        started_at, began = time.time(), time.monotonic()
        observation = at_turn(self._runner.run(trial, self.screen.watch), trial.turn, self.question.turn)
        if observation.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        if observation.outcome is Outcome.SERVER_DOWN and not observation.counts_as_load:
            self.server_down(knobs, observation.reason)
            observation = msgspec.structs.replace(observation, counts_as_load=True)
        self.must_go_on(observation.outcome, observation.reason)
        record = TrialRecord(
            trial=trial,
            observation=observation,
            started_at=started_at,
            seconds=time.monotonic() - began,
            sequence=self._next_sequence,
        )
        self._next_sequence += 1
        self._journal.append_trial(self.study, record)
        if self._learn is not None:
            self._learn(record, self.study)
        self.history.append(record)
        self.screen.done(summary(record))
        return record

    def is_recorded(self, knobs: KnobValues, purpose: str) -> bool:
        """Whether an earlier run of this study measured it and :meth:`measure` will hand it out."""
        return any(r.trial.knobs == knobs and r.trial.purpose == purpose for r in self._recorded)

    def server_down(self, knobs: KnobValues, reason: str) -> None:
        """The server went down while it ran a setting. Raises EngineError, and the study goes on later.

        Returns where that was the setting's third time in this study: then it counts as its failure.
        """
        mine = [row for row in self.decisions if row.kind == "down" and row.knobs == knobs]
        number = len(mine) + 1
        text = f"the server went down with {knobs.describe()} ({number} of {MOST_DOWN} times)"
        self.decide("down", text, reason, knobs)
        if number < MOST_DOWN:
            raise EngineError(
                f"The server went down in the middle of the study: {reason}",
                hint=f"See that it runs, then {GO_ON}",
            )

    def must_go_on(self, outcome: Outcome, reason: str) -> None:
        """Raise EngineError where what worked in this study can't work any more: the model is gone, or the
        disk is full. Before anything worked, it is an answer."""
        why = stopping.broken(outcome)
        if why and any(record.observation.outcome is Outcome.DONE for record in self.history):
            raise EngineError(
                f"The study can't go on: {why} ({reason}).", hint=f"Put that right, then {GO_ON}"
            )

    def recorded_soak(self, knobs: KnobValues) -> SoakReport | None:
        """The next soak of a setting that an earlier run of this study finished."""
        for index, (key, report) in enumerate(self._recorded_soaks):
            if key == knobs:
                del self._recorded_soaks[index]
                self.soaks.append((knobs, report))
                return report
        return None

    def keep_soak(self, knobs: KnobValues, report: SoakReport) -> None:
        """Write down a soak."""
        self._journal.append_soak(study=self.study, knobs=knobs, report=report)
        self.soaks.append((knobs, report))


def at_turn(observation: Observation, timed: Turn, asked: Turn) -> Observation:
    """The observation with turn times for the turn that is asked about, where fewer tokens were timed."""
    if timed == asked or not observation.turns:
        return observation
    turns = tuple(
        msgspec.structs.replace(
            turn,
            turn_s=asked.prompt_tokens / turn.prompt_tps + asked.generate / turn.decode_tps
            if turn.prompt_tps and turn.decode_tps
            else None,
        )
        for turn in observation.turns
    )
    doubt = f"timed over {timed.generate} tokens; the turn time is computed for {asked.generate}"
    return msgspec.structs.replace(observation, turns=turns, doubts=(*observation.doubts, doubt))


def summary(record: TrialRecord) -> str:
    """A finished trial in one line."""
    observation = record.observation
    if observation.outcome is not Outcome.DONE:
        return f"{observation.outcome.value.replace('_', ' ')}: {observation.reason}"
    return (
        f"turn {format_duration(observation.turn_s)} · prompt {format_rate(observation.prompt_tps)} "
        f"· decode {format_rate(observation.decode_tps)}"
    )
