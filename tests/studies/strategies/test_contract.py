"""What every strategy has to keep: it chooses from the list, never twice, and the same way each time."""

from __future__ import annotations

import importlib.util

import pytest

from narthex.errors import UsageError
from narthex.studies.records import Proposal, Question, Stop
from narthex.studies.space import Space
from narthex.studies.strategies import STRATEGIES, strategy
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.study_builders import MODEL, machine, question, space
from narthex.trials.trial import Trial, TrialRecord
from narthex.units import GIB

SMALL = space(layers=(33, 32, 30, 20), contexts=(4096,), planned=False)


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "tpe" and importlib.util.find_spec("optuna") is None:
        pytest.skip("optuna is not installed")
    return str(request.param)


def run(name: str, asked: Question, within: Space, loads: int = 40) -> list[TrialRecord]:
    runner = ModelledRunner(machine(gpu_free_bytes=7 * GIB))
    history: list[TrialRecord] = []
    for _ in range(loads):
        step = strategy(name)(asked, within, history)
        if isinstance(step, Stop):
            break
        trial = Trial(model=MODEL, engine_key="e", host_key="h", knobs=step.knobs, repeats=1)
        observation = runner.run(trial, lambda stage, share: None)
        history.append(TrialRecord(trial=trial, observation=observation, started_at=0.0, seconds=1.0))
    return history


def test_it_chooses_from_the_list(name: str) -> None:
    listed = {candidate.knobs for candidate in SMALL.candidates}
    assert {record.trial.knobs for record in run(name, question(), SMALL)} <= listed


def test_it_never_asks_twice(name: str) -> None:
    asked = [record.trial.knobs for record in run(name, question(), SMALL)]
    assert len(asked) == len(set(asked))


def test_it_ends(name: str) -> None:
    history = run(name, question(), SMALL)
    assert isinstance(strategy(name)(question(), SMALL, history), Stop)


def test_the_same_history_gives_the_same_step(name: str) -> None:
    history = run(name, question(), SMALL, loads=2)
    steps = [strategy(name)(question(), SMALL, list(history)) for _ in range(2)]
    assert steps[0] == steps[1]


def test_a_study_that_was_cut_goes_on_the_same_way(name: str) -> None:
    whole = run(name, question(), SMALL, loads=4)
    assert len(whole) > 1
    step = strategy(name)(question(), SMALL, whole[:-1])
    assert isinstance(step, Proposal)
    assert step.knobs == whole[-1].trial.knobs


def test_an_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        strategy("annealing")
    assert "guided" in caught.value.hint
