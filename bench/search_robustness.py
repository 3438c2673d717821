"""How often does a replay end near the best within six loads? Modelled recordings of many kinds, one table.

    python bench/search_robustness.py [--seeds 20] [--misses]

As recorded: the share within 3 % of the best recorded turn time. As a smaller card (the top 1, 2 and 3 layer
counts turned into failures, in five ways of writing that down): the share within 10 % of the best left.
``--misses`` names each miss with its trials.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from narthex.errors import NarthexError
from narthex.studies.records import Goal, Question, StudyResult
from narthex.studies.replaying import replay
from narthex.testing.modelled_recordings import DEPTH, FAMILIES, STYLES, modelled_recording, smaller
from narthex.trials.replay import Recording, turn_timing
from narthex.trials.trial import Turn

LOADS = 6
KV_TYPES = ("f16", "q8_0")  # what may be recommended without --allow-kv


def best_left(recording: Recording, turn: Turn) -> float | None:
    """The best recorded turn time that may be recommended; None where nothing is left."""
    times = [
        turn_timing(turn, point.prompt_tps, point.decode_tps).turn_s or 0.0
        for point in recording.points
        if point.depth == turn.depth and point.kv_type in KV_TYPES
    ]
    return min(times, default=None)


def ratio(recording: Recording, result: StudyResult, best: float) -> float:
    """The turn time of what is recommended over the best."""
    chosen = [r.observation.turn_s for r in result.trials if r.trial.knobs == result.chosen]
    return chosen[0] / best if chosen and chosen[0] else float("inf")


def tell(recording: Recording, what: str, found: float, result: StudyResult) -> None:
    """One miss, with every trial."""
    print(f"\n{recording.model}, {what}: {found:.3f}")
    for row in result.decisions:
        print(f"    {row.kind:<8} {row.text}")
    for trial in result.trials:
        seconds = trial.observation.turn_s
        print(
            f"    {trial.trial.knobs.describe()}: "
            + (f"{seconds:.2f} s" if seconds else trial.observation.reason[:60])
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--family", choices=FAMILIES)
    parser.add_argument("--style", choices=STYLES)
    parser.add_argument("--misses", action="store_true")
    given = parser.parse_args()
    hits: dict[tuple[str, int], list[bool]] = defaultdict(list)
    by_style: dict[str, list[bool]] = defaultdict(list)
    for family in [given.family] if given.family else FAMILIES:
        for seed in range(given.first, given.first + given.seeds):
            whole = modelled_recording(seed, family)
            turn = Turn(depth=0 if family == "depth 0 only" else DEPTH)
            for count in range(4):
                style = given.style or STYLES[(seed + count) % len(STYLES)]
                recording = smaller(whole, count, turn.depth, style) if count else whole
                best = best_left(recording, turn)
                if best is None:
                    continue
                try:
                    result = replay(recording, Question(goal=Goal.FASTEST, turn=turn))
                except NarthexError as error:
                    print(f"{recording.model}, {count} removed, {style}: {error}")
                    hits[family, count].append(False)
                    continue
                found = ratio(recording, result, best)
                good = found <= (1.10 if count else 1.03) and result.engine_loads <= LOADS
                hits[family, count].append(good)
                if count:
                    by_style[style].append(good)
                if given.misses and not good:
                    tell(recording, f"{count} removed, {style}", found, result)
    print(f"Share near the best after at most {LOADS} loads: 3 % as recorded, 10 % with tops removed\n")
    heads = ("as recorded", "top 1", "top 2", "top 3")
    print(f"{'kind of recording':<28}" + "".join(f"{head:>13}" for head in heads))
    names = [given.family] if given.family else list(FAMILIES)
    for family in names:
        print(f"{family:<28}" + "".join(f"{share(hits[family, count]):>13}" for count in range(4)))
    whole_rows = [[good for family in names for good in hits[family, count]] for count in range(4)]
    print(f"{'all':<28}" + "".join(f"{share(rows):>13}" for rows in whole_rows))
    print("\n" + "\n".join(f"{style:<28}{share(rows):>13}" for style, rows in by_style.items()))


def share(rows: list[bool]) -> str:
    """«97 %» of how many."""
    return f"{sum(rows) / len(rows):.1%}" if rows else "–"


if __name__ == "__main__":
    main()
