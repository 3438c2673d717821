"""What a study's result says about its winner: one place for the table, the JSON and the page."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

import msgspec

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.records import Baseline, ServerProposal, StudyResult
from narthex.trials.soak import SoakReport
from narthex.trials.trial import TrialRecord


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over trials of one setting: seconds a turn, tokens/s. None: not measured."""

    turn_s: float | None = None
    decode_tps: float | None = None
    prompt_tps: float | None = None
    ttft_s: float | None = None


def speed_of(records: Iterable[TrialRecord]) -> Speed:
    """Medians over every timed turn of the trials that finished, as in :mod:`narthex.trials.verdict`."""
    done = [record.observation for record in records if record.observation.outcome is Outcome.DONE]
    turns = [turn for observation in done for turn in observation.turns]

    def middle(name: str) -> float | None:
        values = [value for turn in turns if (value := getattr(turn, name)) is not None]
        return median(values) if values else None

    return Speed(
        turn_s=middle("turn_s"),
        decode_tps=middle("decode_tps"),
        prompt_tps=middle("prompt_tps"),
        ttft_s=middle("ttft_s"),
    )


def chosen_speed(result: StudyResult) -> Speed:
    """The winner's figures: from the confirming A/B/A/B trials where there are any, else from all."""
    return _setting_speed(result, result.chosen)


def baseline_speed(result: StudyResult, row: Baseline) -> Speed:
    """A baseline's figures; confirming trials and repeats of it count, where it was the rival."""
    return _setting_speed(result, row.knobs) if row.record is not None else Speed()


def every_trial(result: StudyResult) -> list[TrialRecord]:
    """The trials, and the baselines that are not among them."""
    baselines = [row.record for row in result.baselines if row.record is not None]
    return [*result.trials, *(record for record in baselines if record not in result.trials)]


def _setting_speed(result: StudyResult, knobs: KnobValues | None) -> Speed:
    mine = [record for record in every_trial(result) if record.trial.knobs == knobs]
    confirmed = speed_of(record for record in mine if record.trial.purpose.startswith("confirm"))
    return confirmed if confirmed.turn_s is not None else speed_of(mine)


def ratio(part: float | None, whole: float | None) -> float | None:
    """``part / whole``; None where one of them is unknown or zero."""
    return part / whole if part is not None and whole else None


def soaks_of(result: StudyResult, knobs: KnobValues | None) -> list[SoakReport]:
    """The soaks of one setting, oldest first."""
    return [report for report, key in zip(result.soaks, result.soaked_knobs, strict=False) if key == knobs]


def soak_seconds(result: StudyResult) -> float:
    """Seconds that the winner survived."""
    return sum(report.seconds for report in soaks_of(result, result.chosen) if report.outcome is Outcome.DONE)


def is_proven(result: StudyResult) -> bool:
    """Whether the winner's last soak ended well. A replay never proves anything."""
    mine = soaks_of(result, result.chosen)
    return result.chosen is not None and bool(mine) and mine[-1].outcome is Outcome.DONE


def best_baseline(result: StudyResult) -> tuple[Baseline, Speed] | None:
    """The baseline that the winner was confirmed against, else the one with the least turn time; with its
    figures. One with a ``why`` can't be compared."""
    rivals = [record.trial.knobs for record in result.trials if record.trial.purpose.startswith("confirm")]
    rows = [(row, baseline_speed(result, row)) for row in result.baselines if not row.why]
    rows = [pair for pair in rows if pair[0].knobs in rivals and pair[0].knobs != result.chosen] or rows
    timed = [(row, speed) for row, speed in rows if speed.turn_s is not None]
    return min(timed, key=lambda pair: pair[1].turn_s or 0.0) if timed else None


def is_stored(result: StudyResult) -> bool:
    """Whether the journal has it. A replay is not stored."""
    return not result.study.startswith("replay-")


def limits(result: StudyResult) -> str | None:
    """What limits the winner, in the study's own words (``extra["limits"]``), where it said so."""
    text = result.extra.get("limits")
    return text if isinstance(text, str) and text else None


def server_proposals(result: StudyResult) -> list[ServerProposal]:
    """What settings of the whole server should bring (``extra["server_level"]``), as far as it was asked."""
    return msgspec.convert(result.extra.get("server_level", []), list[ServerProposal])


def house_ratio(result: StudyResult) -> float | None:
    """Turn time of the house defaults over the winner's (``extra["house_ratio"]``); None: not measured."""
    value = result.extra.get("house_ratio")
    return float(value) if isinstance(value, int | float) else None
