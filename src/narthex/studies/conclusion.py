"""From measured trials to an answer: the winner against the best baseline, and what limits it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

import msgspec

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.feasibility import needs_as_much
from narthex.studies.objective import best_record, measured_utility, turn_speeds, utility
from narthex.studies.records import Baseline, Question
from narthex.studies.space import Space
from narthex.studies.stopping import OTHERS
from narthex.trials.observation import Observation
from narthex.trials.trial import TrialRecord
from narthex.trials.verdict import TIE, Judgement, compare

LOAD_TO_LOAD = 0.10  # two loads of one setting differ by up to this much in recorded servers
BASELINE_WORDS = {
    "current": "what you have now",
    "house": "the house defaults",
    "engine": "the engine's own placement",
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The setting to recommend (None: none), why, and whether it was a tie."""

    knobs: KnobValues | None
    verdict: str
    tie: bool = False
    evidence: str = ""


def best_baseline(question: Question, space: Space, baselines: Sequence[Baseline]) -> Baseline | None:
    """The baseline of the highest utility that can be compared."""
    records = space.comparable([row.record for row in baselines if row.record])
    best = best_record(question, records)
    return next((row for row in baselines if best is not None and row.record == best), None)


def own_best(question: Question, space: Space, history: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best setting with explicit layers: one that does not depend on what is free at the time.

    One that failed once, also after a good load, as while it was confirmed, is none; a server that was busy
    with others is no failure of the setting.
    """
    harmless = {Outcome.DONE, *OTHERS}
    failed = {r.trial.knobs for r in history if r.observation.outcome not in harmless}
    explicit = [r for r in history if r.trial.knobs.gpu_layers is not None and r.trial.knobs not in failed]
    return best_record(question, space.comparable(explicit))


def same_placement(space: Space, winner: TrialRecord, rival: TrialRecord) -> bool:
    """Whether two settings put the same things in the same place, the context apart."""
    report = rival.observation.report
    if report and report.splits_layers:
        return False
    layers = rival.trial.knobs.gpu_layers
    if layers is None:
        layers = report.offloaded_layers if report else None
    every = (report.total_layers if report else None) or space.all_layers
    mine, theirs = winner.trial.knobs, rival.trial.knobs
    alike = (mine.ubatch, mine.kv_type, mine.cpu_moe) == (theirs.ubatch, theirs.kv_type, theirs.cpu_moe)
    return space.has_gpu and alike and min(layers or 0, mine.gpu_layers or 0) >= every


def is_close(question: Question, winner: TrialRecord, rival: TrialRecord) -> bool:
    """Whether two turn times differ by no more than one load may differ from the next."""
    ours, other = turn_speeds(winner, question.turn), turn_speeds(rival, question.turn)
    return ours is not None and other is not None and abs(ours[0] / other[0] - 1) <= LOAD_TO_LOAD


def judge_against(
    question: Question, space: Space, winner: TrialRecord, rival: Baseline, history: Sequence[TrialRecord]
) -> Answer:
    """The winner against the best baseline: from the confirming trials where there are any."""
    assert rival.record is not None
    mine, theirs = winner.trial.knobs, rival.knobs
    words = BASELINE_WORDS.get(rival.name, rival.name)
    if mine == theirs:
        return Answer(knobs=mine, verdict=f"Nothing tried is better than {words}.", tie=True)
    if same_placement(space, winner, rival.record) and is_close(question, winner, rival.record):
        why = "all layers are on the GPU either way, so it is one placement."
        return _tie(mine, theirs, words, why)
    outcome = compare(_observations(history, mine), _observations(history, theirs))
    evidence = "; ".join(outcome.reasons)
    if outcome.judgement is Judgement.TIE:
        return _tie(mine, theirs, words, _lower(outcome.text), evidence)
    if outcome.ratio is None:
        return Answer(knobs=mine, verdict=f"Not proven against {words}: {outcome.text}", evidence=evidence)
    ours, other = _utilities(question, winner, rival.record, outcome.ratio)
    more = (
        ""
        if mine.num_ctx == theirs.num_ctx
        else f", with a context of {mine.num_ctx} instead of {theirs.num_ctx}"
    )
    if outcome.judgement is Judgement.FASTER:
        verdict = f"A turn takes {outcome.ratio:.2f} of the time of {words}{more}."
    elif other is None or (ours is not None and ours > other):
        verdict = f"A turn takes {outcome.ratio:.2f} times that of {words}{more}."
    else:
        mine, verdict = theirs, f"Nothing tried is better than {words}."
    return Answer(knobs=mine, verdict=verdict, evidence=evidence)


def _utilities(
    question: Question, winner: TrialRecord, rival: TrialRecord, ratio: float
) -> tuple[float | None, float | None]:
    """Of both, with turn times that stand to each other as all their trials say, and not only the first."""
    mine, theirs = turn_speeds(winner, question.turn), turn_speeds(rival, question.turn)
    if mine is None or theirs is None or measured_utility(question, rival) is None:
        return measured_utility(question, winner), None
    return (
        utility(question, winner.trial.knobs, ratio * theirs[0], mine[1]),
        utility(question, rival.trial.knobs, theirs[0], theirs[1]),
    )


def _tie(mine: KnobValues, theirs: KnobValues, words: str, why: str, evidence: str = "") -> Answer:
    """A tie: the larger context wins."""
    larger = mine if mine.num_ctx >= theirs.num_ctx else theirs
    more = f" The larger context of {larger.num_ctx} wins." if mine.num_ctx != theirs.num_ctx else ""
    return Answer(knobs=larger, verdict=f"A tie with {words}: {why}{more}", tie=True, evidence=evidence)


def nothing_worked(history: Sequence[TrialRecord], baselines: Sequence[Baseline]) -> Answer:
    """Why nothing is recommended."""
    failures = Counter(
        (record.observation.outcome, record.observation.reason)
        for record in history
        if record.observation.outcome is not Outcome.DONE
    )
    if not failures:
        return Answer(knobs=None, verdict="Nothing is recommended: no setting was measured.")
    (outcome, reason), _ = failures.most_common(1)[0]
    done = any(record.observation.outcome is Outcome.DONE for record in history)
    start = "No setting that ran meets what was asked" if done else "No trial succeeded"
    verdict = (
        f"Nothing is recommended. {start}; most often it was {outcome.value.replace('_', ' ')}: {reason}"
    )
    return Answer(knobs=None, verdict=verdict)


def limits_of(question: Question, space: Space, chosen: TrialRecord, history: Sequence[TrialRecord]) -> str:
    """What keeps the winner from being faster, in one sentence."""
    knobs = chosen.trial.knobs
    layers = knobs.gpu_layers
    if layers is None and chosen.observation.report:
        layers = chosen.observation.report.offloaded_layers
    share = space.cpu_share(knobs, layers)
    if share > 0 and space.has_gpu:
        return _split_words(question, space, knobs.with_(gpu_layers=layers), share, history)
    roof = chosen.observation.bandwidth_share
    if roof is not None:
        return f"Memory bandwidth: decoding reaches {roof:.0%} of what the memory can deliver."
    if share > 0:
        return "The CPU and main memory: no layer runs on a GPU."
    speeds = turn_speeds(chosen, question.turn)
    if speeds is None:
        return ""
    decode = question.turn.generate / speeds[1] / speeds[0]
    return f"The card itself: all layers are on it, and {decode:.0%} of a turn is decoding."


def _split_words(
    question: Question, space: Space, knobs: KnobValues, share: float, history: Sequence[TrialRecord]
) -> str:
    """Why a setting leaves a part of the model in main memory: the user's wish, speed, or no room."""
    where = f"{knobs.gpu_layers} of {space.all_layers} layers are on the card"
    if knobs.cpu_moe:
        where += f", with the experts of {knobs.cpu_moe} of them in main memory"
    if pinned := [name for name in ("gpu_layers", "cpu_moe") if name in question.pins]:
        return f"What you fixed ({', '.join(pinned)}): {where}."
    failed = [record for record in history if record.observation.outcome.is_memory]
    proof = f" ({failed[-1].trial.knobs.describe()}: {failed[-1].observation.reason})" if failed else ""
    room = _room_for_more(space, knobs, share, history)
    if room is None:
        return f"GPU memory: {where}{proof}."
    return f"Speed, and not GPU memory: {where}, and {room}."


def _room_for_more(
    space: Space, knobs: KnobValues, share: float, history: Sequence[TrialRecord]
) -> str | None:
    """Words on a setting that puts more on the card and asks for no less of anything else: it ran, or by the
    plan it would. None where there is none, so that memory is what limits."""
    ran = (r for r in space.comparable(history) if r.observation.outcome is Outcome.DONE)
    for other in map(_placed, ran):
        if needs_as_much(other, knobs) and space.cpu_share(other) < share:
            return "with more of them a turn was no faster"
    failed = [r.trial.knobs for r in history if r.observation.outcome.is_memory]
    for candidate in space.candidates:
        fits = candidate.margin_bytes is not None and candidate.margin_bytes >= 0
        more = candidate.cpu_share < share and needs_as_much(candidate.knobs, knobs)
        if fits and more and not any(needs_as_much(candidate.knobs, other) for other in failed):
            return "more of them fit by the plan"
    return None


def _placed(record: TrialRecord) -> KnobValues:
    """A trial's setting with the layers that were really on the GPU."""
    knobs, report = record.trial.knobs, record.observation.report
    if knobs.gpu_layers is None and report is not None and not report.splits_layers:
        return knobs.with_(gpu_layers=report.offloaded_layers)
    return knobs


def beside_house(answer: Answer, ratio: float | None) -> Answer:
    """The answer with how far it leaves the house defaults behind; ``ratio``: their turn time over its."""
    if ratio is None:
        return answer
    words = "about as long" if abs(ratio - 1) <= TIE else f"{ratio:.2f} times as long"
    verdict = f"{answer.verdict} A turn of the house defaults takes {words}."
    return msgspec.structs.replace(answer, verdict=verdict)


def times_as_long(
    question: Question, history: Sequence[TrialRecord], knobs: KnobValues, other: KnobValues
) -> float | None:
    """The turn time of ``knobs`` over that of ``other``: medians of their trials. None: one has no time."""
    ours, theirs = turn_s_of(question, history, knobs), turn_s_of(question, history, other)
    return ours / theirs if ours and theirs else None


def turn_s_of(question: Question, history: Sequence[TrialRecord], knobs: KnobValues) -> float | None:
    """Median turn time of a setting: of its confirming trials where there are any. None: none was timed."""
    mine = [record for record in history if record.trial.knobs == knobs]
    confirmed = [record for record in mine if record.trial.purpose.startswith("confirm")]
    times = [speeds[0] for r in confirmed or mine if (speeds := turn_speeds(r, question.turn))]
    return median(times) if times else None


def _observations(history: Sequence[TrialRecord], knobs: KnobValues) -> list[Observation]:
    mine = [record for record in history if record.trial.knobs == knobs]
    confirmed = [record for record in mine if record.trial.purpose.startswith("confirm")]
    return [record.observation for record in confirmed or mine]


def _lower(text: str) -> str:
    text = text.removeprefix("A tie: ")
    return text[:1].lower() + text[1:]
