"""How good is what a search finds after six loads? One table: guided, grid, random and TPE at equal loads.

    python bench/search_efficiency.py [RECORDING.json …]

Each figure is the turn time of the best setting found over the best recorded one; «–» found none that
works. The recordings are taken as they are, and as a smaller card: with their top 1, 2 and 3 layer counts
turned into out-of-memory failures. Random and TPE are medians over seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from narthex.studies.objective import best_record
from narthex.studies.records import Goal, Question, Stop
from narthex.studies.space import space_of_recording
from narthex.studies.stopping import loads_of
from narthex.studies.strategies import strategy
from narthex.testing.study_builders import MODEL, best_turn_s, knobs, smaller_card
from narthex.trials.replay import Recording, ReplayRunner, read_recording
from narthex.trials.trial import Trial, TrialRecord, Turn

LOADS = 6
SEEDS = {"guided": 1, "grid": 1, "random": 200, "tpe": 20}
KV_TYPES = ("f16", "q8_0", "q4_0")  # every strategy may use every recorded setting


def found_turn_s(recording: Recording, name: str, seed: int) -> tuple[float, int]:
    """(turn time of the best setting that a strategy found, loads that it took)."""
    asked = Question(goal=Goal.FASTEST, allow_kv=KV_TYPES, seed=seed)
    space = space_of_recording(recording, asked)
    asked = msgspec.structs.replace(asked, min_ctx=space.min_ctx)
    runner = ReplayRunner(recording)
    history: list[TrialRecord] = []

    def run(setting: object) -> None:
        trial = Trial(model=MODEL, engine_key="", host_key="", knobs=setting, repeats=1)  # type: ignore[arg-type]
        observation = runner.run(trial, lambda stage, share: None)
        history.append(TrialRecord(trial=trial, observation=observation, started_at=0.0, seconds=0.0))

    if space.engine_known:
        run(knobs(None, num_ctx=space.min_ctx))  # costs no load; every strategy may look at it
    while loads_of(history) < LOADS:
        step = strategy(name)(asked, space, history)
        if isinstance(step, Stop):
            break
        run(step.knobs)
    best = best_record(asked, space.comparable(history))
    if best is None or best.observation.turn_s is None:
        return float("inf"), loads_of(history)
    return best.observation.turn_s, loads_of(history)


def row(recording: Recording) -> list[str]:
    """One line of the table: a ratio for each strategy, and the loads of the guided one."""
    best = best_turn_s(recording, Turn())
    cells = []
    for name, seeds in SEEDS.items():
        ratio = median(found_turn_s(recording, name, seed)[0] / best for seed in range(seeds))
        cells.append("–" if ratio == float("inf") else f"{ratio:.2f}")
    return [*cells, str(found_turn_s(recording, "guided", 0)[1])]


def main(paths: Sequence[str]) -> None:
    """Print the table."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "bench" / "replay"
    files = [Path(path) for path in paths] or sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"No recordings in {folder}: name some.")
    heads = [*SEEDS, "guided's loads"]
    print(f"Best turn time found after {LOADS} loads, over the best recorded (1.00 is the best)\n")
    print(f"{'recording':<34}" + "".join(f"{head:>16}" for head in heads))
    for path in files:
        recording = read_recording(path)
        for removed in range(4):
            smaller = smaller_card(recording, removed, Turn().depth)
            name = f"{recording.model}, {f'top {removed} removed' if removed else 'as recorded'}"
            print(f"{name:<34}" + "".join(f"{cell:>16}" for cell in row(smaller)))


if __name__ == "__main__":
    main(sys.argv[1:])
