"""The cost model learns from each load what the next ones will take."""

from __future__ import annotations

import pytest

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.cost_model import CostModel
from narthex.studies.least_squares import Row, fit
from narthex.studies.space import Candidate, Space
from narthex.testing.modelled_runner import ModelledMachine, ModelledRunner
from narthex.testing.study_builders import MODEL, knobs, machine, record, space
from narthex.trials.trial import Trial, TrialRecord, Turn

TURN = Turn()


def measured(modelled: ModelledMachine, setting: KnobValues) -> TrialRecord:
    trial = Trial(model=MODEL, engine_key="modelled", host_key="here", knobs=setting, repeats=1)
    observation = ModelledRunner(modelled).run(trial, lambda stage, share: None)
    return TrialRecord(trial=trial, observation=observation, started_at=0.0, seconds=1.0)


def candidate(within: Space, setting: KnobValues) -> Candidate:
    found = within.find(setting)
    assert found is not None
    return found


def test_before_any_load_more_layers_on_the_card_are_faster() -> None:
    within = space(planned=False)
    model = CostModel.of(TURN, within, [])
    times = [model.predict(candidate(within, knobs(n))).turn_s for n in (33, 30, 20, 0)]
    assert times == sorted(times)


def test_two_loads_predict_the_layers_between_and_beyond() -> None:
    modelled, within = machine(), space(planned=False)
    model = CostModel.of(TURN, within, [measured(modelled, knobs(20)), measured(modelled, knobs(28))])
    for layers in (24, 30, 32):
        truth = measured(modelled, knobs(layers)).observation.turn_s
        assert truth is not None
        assert model.predict(candidate(within, knobs(layers))).turn_s == pytest.approx(truth, rel=0.12)


def test_each_load_makes_it_surer() -> None:
    modelled, within = machine(), space(planned=False)
    loads = [measured(modelled, knobs(n)) for n in (20, 28, 24)]
    target = candidate(within, knobs(30))
    sigmas = [CostModel.of(TURN, within, loads[:n]).predict(target).sigma for n in range(4)]
    assert sigmas == sorted(sigmas, reverse=True)


def test_smaller_micro_batches_read_prompts_slower() -> None:
    within = space(planned=False)
    model = CostModel.of(TURN, within, [record(knobs(30), 6.0)])
    small, large = (model.predict(candidate(within, knobs(30, ubatch=n))) for n in (128, 512))
    assert small.prompt_tps < large.prompt_tps


def test_a_quantised_cache_is_expected_to_be_a_little_slower_until_measured() -> None:
    modelled, within = machine(), space(planned=False)
    loads = [measured(modelled, knobs(n)) for n in (33, 30)]
    plain, coded = knobs(28), knobs(28, kv_type="q8_0")

    def ratio(history: list[TrialRecord]) -> float:
        model = CostModel.of(TURN, within, history)
        times = [model.predict(candidate(within, setting)).turn_s for setting in (coded, plain)]
        return times[0] / times[1]

    assert 1.0 < ratio(loads) < 1.1
    slow = record(knobs(33, kv_type="q8_0"), 1.3 * (loads[0].observation.turn_s or 0))
    assert ratio([*loads, slow]) > 1.1


def test_failed_loads_teach_it_nothing() -> None:
    within = space(planned=False)
    assert not CostModel.of(TURN, within, [record(knobs(33), outcome=Outcome.OUT_OF_MEMORY)]).samples


def test_a_slower_card_is_predicted_from_this_one() -> None:
    fast, slow = machine(gpu_bandwidth=720e9, token_s=0.0), machine(gpu_bandwidth=360e9, token_s=0.0)
    within = space(planned=False)
    model = CostModel.of(TURN, within, [measured(fast, knobs(n)) for n in (33, 30)])
    truth = measured(slow, knobs(33)).observation
    predicted = model.on_other_card(candidate(within, knobs(33)), 0.5)
    assert truth.decode_tps is not None
    assert predicted == pytest.approx(256 / truth.decode_tps + 2 * 512 / 1790, rel=0.1)


def test_least_squares_without_data_is_its_prior() -> None:
    found = fit([], (1.0, 2.0), (0.5, 0.5))
    assert found.weights == pytest.approx((1.0, 2.0))
    assert found.predict((1.0, 1.0))[1] == pytest.approx(0.5)


def test_least_squares_with_much_data_is_the_data() -> None:
    rows = [Row((1.0, float(x)), 3.0 + 2.0 * x, 0.01) for x in range(5)]
    assert fit(rows, (0.0, 0.0), (10.0, 10.0)).weights == pytest.approx((3.0, 2.0), abs=1e-3)
