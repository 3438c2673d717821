"""After its proof the context rises a step at a time, and what failed is never the answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from narthex.errors import UsageError
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.backoff import turned
from narthex.studies.baselines import BaselineSetting
from narthex.studies.growth import SLOWER
from narthex.studies.records import Goal, Question, StudyResult
from narthex.studies.space import Space
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.samples import soak_report
from narthex.testing.study_builders import baselines, knobs, machine, question, space, study
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakReport
from narthex.trials.trial import Trial, Watch
from narthex.units import GIB, MIB

TIGHT = machine(gpu_free_bytes=7 * GIB)
STEPS = (4096, 6144, 8192, 12288, 16384, 24576, 32768)
SPACE = space(TIGHT, contexts=STEPS)


def growing(**values: object) -> Question:
    return question(**{"grow": "ctx", "soak_s": 150.0, **values})


def survives(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
    return soak_report(seconds)


def fails_above(num_ctx: int) -> Callable[[Trial, float, Watch], SoakReport]:
    def soak(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        good = trial.knobs.num_ctx <= num_ctx
        return soak_report(seconds, outcome=Outcome.DONE if good else Outcome.UNSTABLE, reason="it leaks")

    return soak


def grown(result: StudyResult) -> list[str]:
    return [decision.text for decision in result.decisions if decision.kind == "grow"]


def chosen(result: StudyResult) -> KnobValues:
    assert result.chosen is not None
    return result.chosen


def test_without_being_asked_nothing_grows() -> None:
    result = study(question(soak_s=150.0), TIGHT, within=SPACE, soak=survives)
    assert not grown(result)
    assert chosen(result).num_ctx == 4096


def test_each_step_is_one_of_the_ladder_and_is_soaked() -> None:
    result = study(growing(), TIGHT, within=SPACE, soak=survives)
    contexts = [setting.num_ctx for setting in result.soaked_knobs]
    assert contexts == list(STEPS[: len(contexts)])
    assert len(contexts) > 2
    assert chosen(result) == result.soaked_knobs[-1]
    assert f"raised from 4096 to {contexts[-1]}" in result.verdict


def test_other_knobs_stay_while_the_plan_says_that_they_may() -> None:
    few = machine(gpu_free_bytes=40 * GIB)
    result = study(growing(), few, within=space(few, contexts=STEPS[:3]), soak=survives)
    assert chosen(result).num_ctx == 8192
    first, last = result.soaked_knobs[0], result.soaked_knobs[-1]
    assert turned(first, last) <= {"num_ctx"}


def test_one_knob_at_a_time_makes_room_each_with_its_reason() -> None:
    result = study(growing(), TIGHT, within=SPACE, soak=survives)
    steps = [d for d in result.decisions if d.kind == "grow" and "→" in d.text]
    before = result.soaked_knobs[0]
    for step in steps:
        assert step.knobs is not None
        assert len(turned(before, step.knobs)) == 1, step.text
        assert "—" in step.text
        before = step.knobs
    assert any("makes room" in step.text for step in steps)


def test_where_a_demo_ends_it_says_that_it_is_a_demo() -> None:
    few = machine(gpu_free_bytes=40 * GIB)
    for demo, words in ((True, "a demo goes no further"), (False, "by the plan no setting has more")):
        result = study(
            growing(min_ctx=1024, demo=demo), few, within=space(few, contexts=(1024, 2048)), soak=survives
        )
        assert f"the context stays at 2048: {words}" in grown(result)[-1]


def test_a_failed_soak_returns_to_the_setting_soaked_last() -> None:
    result = study(growing(), TIGHT, within=SPACE, soak=fails_above(6144))
    assert chosen(result).num_ctx == 6144
    assert [report.outcome for report in result.soaks][-1] is Outcome.UNSTABLE
    assert "back to" in grown(result)[-1]
    assert "it leaks" in result.decisions[-1].evidence


def test_a_failed_trial_returns_to_the_setting_soaked_last() -> None:
    optimistic = space(machine(gpu_free_bytes=9 * GIB), contexts=STEPS, layers=range(33))

    class SmallerThanPlanned(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            if trial.purpose == "grow" and trial.knobs.num_ctx >= 8192:
                return Observation(outcome=Outcome.OUT_OF_MEMORY, reason="cudaMalloc failed")
            return super().run(trial, watch)

    roomy = machine(gpu_free_bytes=10 * GIB)
    result = study(growing(), roomy, runner=SmallerThanPlanned(roomy), within=optimistic, soak=survives)
    assert chosen(result).num_ctx == 6144
    assert "cudaMalloc failed" in result.decisions[-1].evidence
    assert chosen(result) in result.soaked_knobs


def test_a_step_that_makes_turns_much_slower_is_not_taken() -> None:
    result = study(growing(), TIGHT, within=SPACE, soak=survives)

    def turn_s(setting: KnobValues) -> float:
        prompt_tps, decode_tps = TIGHT.speeds(setting, result.question.turn)
        return result.question.turn.prompt_tokens / prompt_tps + result.question.turn.generate / decode_tps

    assert turn_s(chosen(result)) <= SLOWER * turn_s(result.soaked_knobs[0])
    assert chosen(result).num_ctx < STEPS[-1]
    assert "longer a turn" in grown(result)[-1]


def test_a_step_that_turns_out_much_slower_is_taken_back() -> None:
    class SlowerThanPredicted(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            if trial.knobs.num_ctx < 8192:
                return super().run(trial, watch)
            return super().run(msgspec.structs.replace(trial, knobs=trial.knobs.with_(gpu_layers=2)), watch)

    roomy = machine(gpu_free_bytes=9 * GIB)
    small = space(roomy, contexts=STEPS[:4], layers=range(33))
    result = study(growing(), roomy, runner=SlowerThanPredicted(roomy), within=small, soak=survives)
    assert chosen(result).num_ctx == 6144
    assert "longer than" in result.decisions[-1].evidence


def test_longest_takes_any_step_that_is_fast_enough() -> None:
    fastest = study(growing(), TIGHT, within=SPACE, soak=survives)
    longest = study(growing(goal=Goal.LONGEST, min_decode_tps=5.0), TIGHT, within=SPACE, soak=survives)
    assert chosen(longest).num_ctx > chosen(fastest).num_ctx


def test_only_what_survived_its_soak_grows() -> None:
    result = study(growing(soak_s=0.0), TIGHT, within=SPACE, soak=survives)
    assert chosen(result).num_ctx == 4096
    assert "only what survived its soak" in grown(result)[0]


def test_loads_that_are_used_up_end_the_growth() -> None:
    free = study(growing(), TIGHT, within=SPACE, soak=survives)
    before = sum(record.trial.purpose != "grow" for record in free.trials)
    result = study(growing(max_loads=before + 1), TIGHT, within=SPACE, soak=survives)
    assert chosen(result).num_ctx == STEPS[1]
    assert "All loads" in grown(result)[-1]


def test_time_that_is_used_up_ends_the_growth() -> None:
    result = study(growing(budget_s=0.0), TIGHT, within=SPACE, soak=survives)
    assert "time that the study may take" in grown(result)[-1]


def test_at_the_end_of_the_ladder_it_says_so() -> None:
    one = space(TIGHT, contexts=(4096,))
    result = study(growing(), TIGHT, within=one, soak=survives)
    assert "no setting has more" in grown(result)[0]


def test_the_engines_own_placement_grows_as_it_is() -> None:
    poor = space(TIGHT, contexts=STEPS[:3], layers=(2,))
    settings = baselines()[:1]
    result = study(growing(), TIGHT, within=poor, settings=settings, soak=survives)
    assert [setting.gpu_layers for setting in result.soaked_knobs] == [None, None, None]
    assert chosen(result).num_ctx == 8192


def test_a_baseline_that_the_space_does_not_hold_grows_where_something_larger_fits() -> None:
    mine = knobs(24, batch=300, ubatch=300)
    poor = space(TIGHT, contexts=STEPS[:3], layers=(2, 25), ubatches=(512,), kv_types=("f16",))
    tuned = machine(gpu_free_bytes=7 * GIB, compute_token_bytes=MIB)
    settings = (BaselineSetting(name="current", knobs=mine),)

    class SlowUnlessMine(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            seen = super().run(trial, watch)
            if trial.knobs.batch == 300:
                return seen
            return Observation(outcome=Outcome.REQUEST_FAILED, reason="no")

    result = study(
        growing(), tuned, runner=SlowUnlessMine(tuned), within=poor, settings=settings, soak=survives
    )
    assert chosen(result).with_(num_ctx=4096) == mine
    assert chosen(result).num_ctx > 4096


def test_a_study_that_was_cut_off_while_it_grew_goes_on_and_repeats_nothing() -> None:
    whole = study(growing(), TIGHT, within=SPACE, soak=survives)
    for stop_after in range(len(whole.soaks)):
        check_cut(whole, SPACE, stop_after)


def check_cut(whole: StudyResult, within: Space, stop_after: int) -> None:
    soaked: list[KnobValues] = []

    def cut(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        if len(soaked) == stop_after:
            raise KeyboardInterrupt
        soaked.append(trial.knobs)
        return soak_report(seconds)

    def rest(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        soaked.append(trial.knobs)
        return soak_report(seconds)

    with Journal.open() as journal:
        first = study(growing(), TIGHT, within=within, journal=journal, soak=cut)
        assert not first.finished
        if stop_after:
            assert chosen(first) == soaked[-1]
        done = study(growing(), TIGHT, within=within, journal=journal, soak=rest)
        told = [(row.kind, row.text) for row in journal.decisions(done.study) if row.kind != "resume"]
    assert done.study == first.study
    assert chosen(done) == chosen(whole)
    assert soaked == list(whole.soaked_knobs)
    assert [r.trial.knobs for r in done.trials] == [r.trial.knobs for r in whole.trials]
    assert told == [(d.kind, d.text) for d in whole.decisions]


def test_nothing_but_the_context_can_grow() -> None:
    with pytest.raises(UsageError, match="grow"):
        study(question(grow="batch"), TIGHT)
