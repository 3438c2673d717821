"""A whole study on a modelled machine: baselines, search, confirmation, soak, answer."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from narthex.engines._base import LoadReport
from narthex.journal.journal import Journal
from narthex.outcomes import Outcome
from narthex.studies.notebook import Notebook
from narthex.studies.records import Goal, StudyResult
from narthex.studies.screen import Silent
from narthex.studies.session import Session
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.study_builders import IDENTITY, MODEL, machine, question, space, study
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakLimit, SoakReport
from narthex.trials.trial import Trial, TrialRecord, Watch
from narthex.units import GIB

ROOMY = machine(gpu_free_bytes=24 * GIB)
TIGHT = machine(gpu_free_bytes=7 * GIB)


def soaked(outcome: Outcome, seconds: float = 150.0) -> SoakReport:
    return SoakReport(
        outcome=outcome,
        reason="VRAM grew" if outcome is not Outcome.DONE else "every limit held",
        seconds=seconds,
        turns=5,
        errors=0,
        longest_stall_s=0.1,
        fill_max=0.94,
        vram_growth_bytes=0,
        ram_growth_bytes=0,
        vram_slope_bytes_s=0.0,
        ram_slope_bytes_s=0.0,
        speed_drift=0.0,
    )


def kinds(result: StudyResult) -> list[str]:
    return [decision.kind for decision in result.decisions]


def purposes(result: StudyResult) -> list[str]:
    return [record.trial.purpose for record in result.trials]


def test_on_a_tight_card_it_beats_the_engines_own_placement() -> None:
    result = study(question(), TIGHT)
    assert result.chosen is not None
    assert TIGHT.need_bytes(result.chosen) <= TIGHT.gpu_free_bytes
    assert "of the time of the engine's own placement" in result.verdict
    assert not result.tie


def test_every_baseline_is_measured() -> None:
    result = study(question(), TIGHT)
    assert {row.name: row.record is not None for row in result.baselines} == {"engine": True, "house": True}


def test_the_winner_is_confirmed_interleaved() -> None:
    result = study(question(), TIGHT)
    engine = next(row.knobs for row in result.baselines if row.name == "engine")
    confirmed = [r.trial.knobs for r in result.trials if r.trial.purpose.startswith("confirm")]
    assert confirmed == [engine, result.chosen, engine, result.chosen]


def test_a_wide_gap_is_confirmed_with_two_turns_a_load() -> None:
    result = study(question(repeats=3), TIGHT)
    confirming = [r.trial.repeats for r in result.trials if r.trial.purpose.startswith("confirm")]
    assert confirming == [2, 2, 2, 2]


def test_where_everything_fits_it_is_a_tie_in_three_loads() -> None:
    for goal in Goal:
        result = study(question(goal=goal, min_decode_tps=5.0), ROOMY)
        assert result.tie, goal
        assert result.engine_loads <= 3
        assert result.chosen is not None
        assert result.chosen.gpu_layers == 33


def test_in_a_tie_the_larger_context_wins() -> None:
    result = study(question(), ROOMY)
    assert result.chosen is not None
    assert result.chosen.num_ctx == 16384


def test_layers_of_which_the_engine_left_the_experts_behind_are_no_tie() -> None:
    class Splitting(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            seen = super().run(trial, watch)
            if trial.knobs.gpu_layers is not None:
                return seen
            fit = f"- CUDA0 (modelled): {self.machine.all_layers} layers (20 overflowing), 6000 MiB used"
            report = LoadReport(offloaded_layers=33, total_layers=33, fit=fit)
            return msgspec.structs.replace(seen, report=report)

    result = study(question(), TIGHT, runner=Splitting(TIGHT))
    assert not result.tie
    assert "of the time of the engine's own placement" in result.verdict


def test_a_baseline_that_is_not_measured_says_why() -> None:
    result = study(question(), ROOMY)
    house = next(row for row in result.baselines if row.name == "house")
    assert house.record is None
    assert "no better than the engine's own" in house.why
    assert "skip" in kinds(result)


def test_each_try_is_written_down_with_its_reason() -> None:
    result = study(question(), TIGHT)
    tries = [d for d in result.decisions if d.kind in {"try", "backoff"}]
    searched = [r.trial.knobs for r in result.trials if r.trial.purpose == "search"]
    assert [d.knobs for d in tries] == searched
    assert all("—" in d.text for d in tries)


def test_a_failure_that_the_plan_did_not_see_is_backed_off_one_parameter_at_a_time() -> None:
    optimistic = space(machine(gpu_free_bytes=8 * GIB))  # the plan believes in a gibibyte too much
    result = study(question(goal=Goal.BALANCED), TIGHT, within=optimistic)
    searched = [r for r in result.trials if r.trial.purpose == "search"]
    backed = [d for d in result.decisions if d.kind == "backoff"]
    assert backed
    assert all(d.evidence for d in backed)
    for before, after in pairwise(searched):
        decision = next(d for d in result.decisions if d.knobs == after.trial.knobs)
        if decision.kind == "backoff":
            assert len(after.trial.knobs.difference(before.trial.knobs)) == 1
    assert result.chosen is not None


def test_where_nothing_works_it_recommends_nothing_and_says_why() -> None:
    hopeless = machine(gpu_free_bytes=GIB // 8)

    class NothingLoads(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            self.trials.append(trial)
            return Observation(outcome=Outcome.CORRUPT_FILE, reason="tensor data is not within the file")

    result = study(question(), runner=NothingLoads(hopeless))
    assert result.chosen is None
    assert "not within the file" in result.verdict
    assert kinds(result)[-1] == "refuse"
    assert result.engine_loads <= 3


def test_a_good_soak_proves_the_winner() -> None:
    result = study(question(soak_s=150.0), TIGHT, soak=lambda trial, s, watch: soaked(Outcome.DONE, s))
    assert [report.outcome for report in result.soaks] == [Outcome.DONE]
    assert result.soaked_knobs == (result.chosen,)


def test_a_failed_soak_backs_off_one_step_and_soaks_again() -> None:
    answers = iter([Outcome.UNSTABLE, Outcome.OUT_OF_MEMORY_COMPUTE, Outcome.DONE])
    result = study(question(soak_s=150.0), TIGHT, soak=lambda trial, s, watch: soaked(next(answers)))
    assert len(result.soaks) == 3
    first, second, third = result.soaked_knobs
    assert len(first.difference(second)) == 1
    assert len(second.difference(third)) == 1
    assert result.chosen == third
    assert purposes(result).count("backoff") == 2


def test_where_main_memory_grows_no_layer_leaves_the_card() -> None:
    """They would go to main memory."""

    def leaks(trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        return msgspec.structs.replace(soaked(Outcome.UNSTABLE), broke=SoakLimit.MAIN_MEMORY)

    long = question(soak_s=150.0, goal=Goal.LONGEST)
    for asked in (long, msgspec.structs.replace(long, backoff_order=("gpu_layers",))):
        result = study(asked, TIGHT, soak=leaks)
        assert len({setting.gpu_layers for setting in result.soaked_knobs}) == 1
    assert len(result.soaks) == 1
    assert any("fewer GPU layers would take more of it" in decision.text for decision in result.decisions)


def test_a_failed_soak_may_back_off_to_what_the_search_measured() -> None:
    few = space(TIGHT, contexts=(4096,), ubatches=(128,), kv_types=("f16",), layers=(25, 27))
    answers = iter([Outcome.UNSTABLE, Outcome.DONE])
    asked = question(soak_s=150.0, strategy="grid")
    result = study(asked, TIGHT, within=few, soak=lambda trial, s, watch: soaked(next(answers)))
    assert result.chosen is not None
    assert result.chosen.gpu_layers == 25


def test_a_baseline_that_fails_its_soak_gives_way_to_the_best_of_the_search() -> None:
    few = space(TIGHT, contexts=(4096,), ubatches=(128,), kv_types=("f16",), layers=(20, 22))
    answers = iter([Outcome.UNSTABLE, Outcome.DONE])
    result = study(
        question(soak_s=150.0), TIGHT, within=few, soak=lambda trial, s, watch: soaked(next(answers))
    )
    assert [knobs.gpu_layers for knobs in result.soaked_knobs] == [None, 22]
    assert result.chosen == result.soaked_knobs[1]


def test_what_fails_while_it_is_confirmed_is_not_recommended() -> None:
    class Fickle(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            seen = super().run(trial, watch)
            if trial.purpose != "confirm:2" or trial.knobs.gpu_layers is None:
                return seen
            return Observation(outcome=Outcome.OUT_OF_MEMORY, reason="cudaMalloc failed: out of memory")

    result = study(question(), TIGHT, runner=Fickle(TIGHT))
    failed = [r.trial.knobs for r in result.trials if r.observation.outcome is Outcome.OUT_OF_MEMORY]
    assert failed
    assert result.chosen not in failed


def test_what_never_survives_a_soak_is_not_recommended() -> None:
    result = study(question(soak_s=1.0), TIGHT, soak=lambda trial, s, watch: soaked(Outcome.UNSTABLE))
    assert result.chosen is None
    assert "no setting survived" in result.verdict


def test_without_a_soak_it_stays_unproven() -> None:
    result = study(question(soak_s=0.0), TIGHT, soak=lambda trial, s, watch: soaked(Outcome.DONE))
    assert not result.soaks
    assert result.chosen is not None


def test_ctrl_c_ends_it_with_what_is_known() -> None:
    class Impatient(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            if len(self.trials) == 3:
                raise KeyboardInterrupt
            return super().run(trial, watch)

    result = study(question(), runner=Impatient(TIGHT))
    assert not result.finished
    assert len(result.trials) == 3
    assert result.chosen in [record.trial.knobs for record in result.trials]
    assert "not proven" in result.verdict


def test_it_takes_no_more_loads_than_allowed() -> None:
    for most in (5, 8, 12):
        assert study(question(max_loads=most), TIGHT).engine_loads <= most
    for most in (1, 2):
        result = study(question(max_loads=most), ROOMY)
        assert result.engine_loads <= most
        assert result.chosen is not None


def test_it_begins_no_new_try_when_its_time_is_used() -> None:
    result = study(question(budget_s=0.0), TIGHT)
    assert any("time that the study may take" in decision.text for decision in result.decisions)
    assert result.chosen is not None


def test_longest_finds_more_context_than_fastest() -> None:
    fastest, longest = (
        study(question(goal=goal, min_decode_tps=5.0), TIGHT) for goal in (Goal.FASTEST, Goal.LONGEST)
    )
    assert fastest.chosen is not None
    assert longest.chosen is not None
    assert longest.chosen.num_ctx > fastest.chosen.num_ctx


def test_the_answer_names_what_limits_it() -> None:
    assert "GPU memory" in study(question(), TIGHT).extra["limits"]


def test_a_finished_study_is_in_the_journal_and_a_new_one_begins() -> None:
    with Journal.open() as journal:
        first = study(question(), TIGHT, journal=journal)
        second = study(question(), TIGHT, journal=journal)
        row = journal.study(first.study)
        assert row.finished
        assert row.result is not None
        assert msgspec.json.decode(row.result, type=StudyResult).chosen == first.chosen
    assert first.study != second.study


@pytest.mark.parametrize("stop_after", [0, 1, 2, 4, 6])
def test_a_study_that_was_cut_off_continues_and_repeats_nothing(stop_after: int) -> None:
    whole = study(question(), TIGHT)

    class Cut(ModelledRunner):
        def run(self, trial: Trial, watch: Watch) -> Observation:
            if len(self.trials) == stop_after:
                raise KeyboardInterrupt
            return super().run(trial, watch)

    rest = ModelledRunner(TIGHT)
    with Journal.open() as journal:
        cut = study(question(), runner=Cut(TIGHT), journal=journal, within=space(TIGHT))
        done = study(question(), TIGHT, runner=rest, journal=journal)
        assert done.study == cut.study
        decisions = [(row.kind, row.text) for row in journal.decisions(done.study)]
    assert purposes(done) == purposes(whole)
    assert [r.trial.knobs for r in done.trials] == [r.trial.knobs for r in whole.trials]
    assert len(rest.trials) == len(whole.trials) - stop_after
    assert done.chosen == whole.chosen
    told = [row for row in decisions if row[0] != "resume"]
    assert told == [(d.kind, d.text) for d in whole.decisions]


def test_a_study_goes_on_where_the_model_was_moved() -> None:
    moved = msgspec.structs.replace(IDENTITY, model=msgspec.structs.replace(MODEL, path="elsewhere/toy.gguf"))
    recorded = study(question(), TIGHT).trials[0]

    class Kept(Notebook):
        def trials(self, study: str | None) -> list[TrialRecord]:
            return [recorded]

    runner = ModelledRunner(TIGHT)
    session = Session("s", question(), moved, runner=runner, journal=Kept(), screen=Silent())
    trial = recorded.trial
    assert session.measure(trial.knobs, trial.purpose) == recorded
    assert not runner.trials


def test_another_question_is_another_study() -> None:
    with Journal.open() as journal:
        one = study(question(), TIGHT, journal=journal)
        other = study(question(goal=Goal.LONGEST), TIGHT, journal=journal)
    assert one.study != other.study


def test_fewer_tokens_for_a_slow_baseline_are_counted_up_to_the_turn() -> None:
    from narthex.studies.session import at_turn
    from narthex.testing.study_builders import knobs, record
    from narthex.trials.trial import Turn

    short = Turn(generate=64)
    few = record(knobs(19), 10.0, turn=short).observation
    whole = at_turn(few, short, Turn())
    assert whole.turn_s == pytest.approx(512 / (few.prompt_tps or 1) + 256 / (few.decode_tps or 1))
    assert "64 tokens" in whole.doubts[-1]
