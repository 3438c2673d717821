"""A server that goes down ends a study unfinished; the same command goes on, and nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.errors import EngineError
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.records import StudyResult
from narthex.testing.modelled_runner import ModelledMachine, ModelledRunner
from narthex.testing.samples import soak_report
from narthex.testing.study_builders import machine, question, study
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakReport
from narthex.trials.trial import Trial, Watch
from narthex.units import GIB

TIGHT = machine(gpu_free_bytes=7 * GIB)
GONE = "connection refused"
WHOLE = study(question(), TIGHT)


class Falling(ModelledRunner):
    """A server that goes down when ``falls`` says so; ``back``: it came back each time by itself."""

    def __init__(
        self, modelled: ModelledMachine, falls: Callable[[Trial, int], bool], *, back: bool = False
    ) -> None:
        super().__init__(modelled)
        self._falls = falls
        self._back = back

    def run(self, trial: Trial, watch: Watch) -> Observation:
        if self._falls(trial, len(self.trials)):
            return Observation(outcome=Outcome.SERVER_DOWN, reason=GONE, counts_as_load=self._back)
        return super().run(trial, watch)


class Failing(ModelledRunner):
    """Ends one way or the other from a load on."""

    def __init__(self, modelled: ModelledMachine, outcome: Outcome, after: int = 0) -> None:
        super().__init__(modelled)
        self._outcome = outcome
        self._after = after

    def run(self, trial: Trial, watch: Watch) -> Observation:
        if len(self.trials) >= self._after:
            self.trials.append(trial)
            return Observation(outcome=self._outcome, reason="the line that proves it")
        return super().run(trial, watch)


def settings(result: StudyResult) -> list[KnobValues]:
    return [record.trial.knobs for record in result.trials]


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_it_goes_on_where_it_stopped_and_counts_nothing_twice(after: int) -> None:
    with Journal.open() as journal:
        with pytest.raises(EngineError) as caught:
            study(question(), TIGHT, runner=Falling(TIGHT, lambda trial, run: run == after), journal=journal)
        assert GONE in caught.value.message
        assert "the same command again" in caught.value.hint
        row = journal.studies()[0]
        assert not row.finished
        assert len(journal.trials(row.id)) == after
        rest = ModelledRunner(TIGHT)
        done = study(question(), TIGHT, runner=rest, journal=journal)
        told = [(r.kind, r.text) for r in journal.decisions(row.id) if r.kind not in {"resume", "down"}]
    assert done.study == row.id
    assert settings(done) == settings(WHOLE)
    assert done.engine_loads == WHOLE.engine_loads
    assert len(rest.trials) == len(WHOLE.trials) - after
    assert told == [(d.kind, d.text) for d in WHOLE.decisions]


def test_a_setting_that_takes_the_server_down_three_times_has_failed() -> None:
    first = next(r.trial.knobs for r in WHOLE.trials if r.trial.purpose == "search")

    def falls(trial: Trial, run: int) -> bool:
        return trial.knobs == first

    with Journal.open() as journal:
        for _ in range(2):
            with pytest.raises(EngineError):
                study(question(), TIGHT, runner=Falling(TIGHT, falls), journal=journal)
        done = study(question(), TIGHT, runner=Falling(TIGHT, falls), journal=journal)
    failed = [r for r in done.trials if r.observation.outcome is Outcome.SERVER_DOWN]
    assert [record.trial.knobs for record in failed] == [first]
    assert done.chosen not in {None, first}
    assert [d.text[-14:] for d in done.decisions if d.kind == "down"] == [
        f"({number} of 3 times)" for number in (1, 2, 3)
    ]


def test_a_server_that_died_and_came_back_each_time_is_a_failed_setting_at_once() -> None:
    first = next(r.trial.knobs for r in WHOLE.trials if r.trial.purpose == "search")
    done = study(question(), TIGHT, runner=Falling(TIGHT, lambda trial, run: trial.knobs == first, back=True))
    assert done.finished
    assert done.chosen not in {None, first}
    backed = next(d for d in done.decisions if d.kind == "backoff")
    assert backed.text.split("— ")[1].startswith("backing off, server down")


def test_a_server_that_goes_down_in_a_soak_is_soaked_again() -> None:
    asked = question(soak_s=60.0)
    fell: list[Trial] = []

    def soak(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        if fell:
            return soak_report(seconds)
        fell.append(trial)
        return soak_report(1.0, outcome=Outcome.SERVER_DOWN, reason=GONE)

    with Journal.open() as journal:
        with pytest.raises(EngineError, match=GONE):
            study(asked, TIGHT, journal=journal, soak=soak)
        done = study(asked, TIGHT, journal=journal, soak=soak)
    assert [report.outcome for report in done.soaks] == [Outcome.DONE]
    assert done.chosen == WHOLE.chosen


def test_a_soak_that_takes_the_server_down_three_times_is_backed_off() -> None:
    asked = question(soak_s=60.0)

    def soak(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        if trial.knobs == WHOLE.chosen:
            return soak_report(1.0, outcome=Outcome.SERVER_DOWN, reason=GONE)
        return soak_report(seconds)

    with Journal.open() as journal:
        for _ in range(2):
            with pytest.raises(EngineError):
                study(asked, TIGHT, journal=journal, soak=soak)
        done = study(asked, TIGHT, journal=journal, soak=soak)
    assert [report.outcome for report in done.soaks] == [Outcome.SERVER_DOWN, Outcome.DONE]
    assert done.chosen not in {None, WHOLE.chosen}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.MODEL_UNKNOWN,
        Outcome.FILE_MISSING,
        Outcome.CORRUPT_FILE,
        Outcome.UNSUPPORTED_ARCHITECTURE,
        Outcome.DISK_FULL,
    ],
)
@pytest.mark.parametrize("strategy", ["guided", "grid", "random"])
def test_where_no_setting_can_help_one_load_is_enough(outcome: Outcome, strategy: str) -> None:
    runner = Failing(TIGHT, outcome)
    result = study(question(strategy=strategy), TIGHT, runner=runner)
    assert len(runner.trials) == 1
    assert result.chosen is None
    assert "the line that proves it" in result.verdict
    assert result.finished


def test_a_disk_that_fills_up_on_the_way_loses_no_trial() -> None:
    with Journal.open() as journal:
        with pytest.raises(EngineError, match="disk is full") as caught:
            study(question(), TIGHT, runner=Failing(TIGHT, Outcome.DISK_FULL, after=4), journal=journal)
        assert "the same command again" in caught.value.hint
        done = study(question(), TIGHT, journal=journal)
    assert settings(done) == settings(WHOLE)


@pytest.mark.parametrize("outcome", [Outcome.QUEUE_FULL, Outcome.CLIENT_GONE])
def test_a_server_that_is_busy_with_others_is_not_asked_for_ever(outcome: Outcome) -> None:
    runner = Failing(TIGHT, outcome, after=1)
    result = study(question(), TIGHT, runner=runner)
    assert len(runner.trials) <= 8
    assert any("other things to do" in decision.text for decision in result.decisions)


def test_a_soak_that_others_cut_off_is_tried_again_and_lowers_nothing() -> None:
    answers = iter([Outcome.QUEUE_FULL, Outcome.DONE])
    result = study(
        question(soak_s=60.0), TIGHT, soak=lambda trial, s, watch: soak_report(s, outcome=next(answers))
    )
    assert result.chosen == WHOLE.chosen
    assert [report.outcome for report in result.soaks] == [Outcome.QUEUE_FULL, Outcome.DONE]


def test_a_soak_that_others_cut_off_each_time_proves_nothing() -> None:
    result = study(
        question(soak_s=60.0),
        TIGHT,
        soak=lambda trial, s, watch: soak_report(s, outcome=Outcome.QUEUE_FULL, reason="server busy"),
    )
    assert result.chosen == WHOLE.chosen
    assert "not proven" in result.verdict
    assert "server busy" in result.verdict


def test_how_far_the_house_defaults_are_left_behind_is_said() -> None:
    ratio = WHOLE.extra["house_ratio"]
    assert ratio > 1.5
    assert f"house defaults takes {ratio:.2f} times as long" in WHOLE.verdict
