"""``render``: a study as one self-contained HTML page: no script, no network, readable on a phone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from narthex import __version__
from narthex.knobs import KNOBS
from narthex.outcomes import Outcome
from narthex.studies.records import StudyResult
from narthex.trials.trial import TrialRecord
from narthex.units import format_duration, format_rate, format_size
from narthex.views import figures
from narthex.views.report import charts
from narthex.views.report.memory import MemoryPicture
from narthex.views.text import (
    BASELINE_WORDS,
    OUTCOME_WORDS,
    compared,
    format_duration_fine,
    proof_words,
    server_words,
    soak_words,
    turn_words,
)


def render(
    result: StudyResult,
    memory: Sequence[MemoryPicture] = (),
    *,
    memory_gap: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The page. ``memory`` are the pictures to draw; ``memory_gap`` says why there is none.

    Everything that comes from a model, an engine or a person is escaped.
    """
    from jinja2 import Environment

    folder = files(__package__ or "narthex.views.report")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    pareto = charts.pareto_chart(result)
    return template.render(
        css=_safe((folder / "page.css").read_text(encoding="utf-8")),
        version=__version__,
        result=result,
        model=result.model.name if result.model else "recorded measurements",
        when=time.strftime("%Y-%m-%d %H:%M", time.localtime(result.started_at)),
        length=format_duration(result.seconds),
        headline=headline(result),
        badges=_badges(result),
        proof=proof_words(result) if result.chosen else "",
        limits=figures.limits(result),
        turn=turn_words(result),
        before_after=_before_after(result),
        knobs=_chosen_knobs(result),
        memory=[_memory(picture, index) for index, picture in enumerate(memory)],
        memory_gap=memory_gap,
        pareto=_safe(pareto) if pareto else None,
        trials=[_trial(number, record, result) for number, record in enumerate(result.trials, 1)],
        soaks=[_soak(index, result) for index in range(len(result.soaks))],
        decisions=result.decisions,
        doubts=_remarks(result, "doubts"),
        gaps=_remarks(result, "gaps"),
        notes=notes,
        server=[server_words(row) for row in figures.server_proposals(result)],
    )


def _safe(text: str) -> Any:
    """Our own style sheet and drawings, which escape what they were given: not to be escaped again."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def headline(result: StudyResult) -> str:
    """The answer in one sentence."""
    if result.chosen is None:
        return "Nothing is recommended." if result.finished else "Not finished yet."
    speed = figures.chosen_speed(result)
    text = f"{format_duration_fine(speed.turn_s)} a turn at {result.chosen.num_ctx} tokens of context"
    best = figures.best_baseline(result)
    if best is None or speed.turn_s is None:
        return f"{text}."
    row, before = best
    words = BASELINE_WORDS.get(row.name, row.name)
    if result.tie or row.knobs == result.chosen:
        return f"{text}: a tie with {_the(words)}."
    share = figures.ratio(before.turn_s, speed.turn_s)
    if share is None or share < 1:
        return f"{text}; {_the(words)} took {format_duration_fine(before.turn_s)}."
    return f"{text}: {share:.1f} times as fast as {_the(words)}."


def _the(words: str) -> str:
    return words if words.startswith("what ") else f"the {words}"


def _badges(result: StudyResult) -> list[tuple[str, str]]:
    found = []
    if result.chosen is not None:
        proven = figures.is_proven(result)
        found.append(("proven", "good") if proven else ("not proven", "warn"))
    if result.tie:
        found.append(("tie", "plain"))
    if result.question.demo:
        found.append(("demo: short workload, short soak", "warn"))
    if not result.finished:
        found.append(("cut off", "warn"))
    return found


def _before_after(result: StudyResult) -> list[dict[str, Any]]:
    chosen = figures.chosen_speed(result)
    rows = []
    for row in result.baselines:
        speed = figures.baseline_speed(result, row)
        why = row.why
        if speed.turn_s is None and row.record is not None:
            why = OUTCOME_WORDS[row.record.observation.outcome]
        rows.append(
            {
                "name": BASELINE_WORDS.get(row.name, row.name),
                "chosen": False,
                "compared": why or compared(speed.turn_s, chosen.turn_s),
                "knobs": row.knobs.describe(),
                **_speed(speed),
            }
        )
    if result.chosen is not None:
        rows.append(
            {
                "name": "narthex",
                "chosen": True,
                "compared": "",
                "knobs": result.chosen.describe(),
                **_speed(chosen),
            }
        )
    return rows


def _speed(speed: figures.Speed) -> dict[str, str]:
    return {
        "turn": format_duration_fine(speed.turn_s) if speed.turn_s is not None else "–",
        "decode": format_rate(speed.decode_tps) if speed.decode_tps is not None else "–",
        "prompt": format_rate(speed.prompt_tps) if speed.prompt_tps is not None else "–",
    }


def _chosen_knobs(result: StudyResult) -> list[tuple[str, str, str]]:
    if result.chosen is None:
        return []
    values = result.chosen.as_dict()
    return [
        (knob.name, "auto" if values[knob.name] is None else str(values[knob.name]), knob.help)
        for knob in KNOBS
        if not (knob.name == "cpu_moe" and not values["cpu_moe"])
    ]


def _memory(picture: MemoryPicture, index: int) -> dict[str, Any]:
    rows = [
        {
            "ctx": bar.num_ctx,
            "terms": [format_size(getattr(bar, field)) for field, _, _ in charts.TERMS],
            "need": format_size(bar.need_bytes),
            "chosen": bar.num_ctx == picture.knobs.num_ctx,
            "fits": None
            if picture.free_bytes is None
            else bar.need_bytes + picture.reserve_bytes <= picture.free_bytes,
        }
        for bar in picture.bars
    ]
    return {
        "device": "Main memory" if picture.kind == "host" else picture.device,
        "chart": _safe(charts.memory_chart(picture, f"memory-{index}")),
        "knobs": picture.knobs.describe(),
        "free": format_size(picture.free_bytes) if picture.free_bytes is not None else None,
        "reserve": format_size(picture.reserve_bytes),
        "when": picture.when,
        "rows": rows,
    }


def _trial(number: int, record: TrialRecord, result: StudyResult) -> dict[str, Any]:
    seen = record.observation
    done = seen.outcome is Outcome.DONE
    return {
        "number": number,
        "purpose": record.trial.purpose,
        "knobs": record.trial.knobs.describe(),
        "chosen": record.trial.knobs == result.chosen,
        "outcome": OUTCOME_WORDS[seen.outcome],
        "style": "good" if done else "plain" if seen.outcome is Outcome.INTERRUPTED else "bad",
        "proof": "" if done else seen.reason,
        **_speed(figures.speed_of([record])),
        "load": format_duration_fine(seen.load_s) if seen.load_s is not None else "–",
        "vram": format_size(seen.peaks.vram_bytes) if seen.peaks.vram_bytes is not None else "–",
        "at": format_duration(max(record.started_at - result.started_at, 0)),
    }


def _soak(index: int, result: StudyResult) -> dict[str, Any]:
    report = result.soaks[index]
    knobs = result.soaked_knobs[index] if index < len(result.soaked_knobs) else None
    drawn = charts.soak_charts(report, f"soak-{index}")
    return {
        "knobs": knobs.describe() if knobs else "",
        "words": soak_words(report),
        "good": report.outcome is Outcome.DONE,
        "charts": [(title, _safe(chart)) for title, chart in drawn],
    }


def _remarks(result: StudyResult, field: str) -> list[tuple[str, int]]:
    """Doubts or gaps over all trials, each once, with the number of trials that had it."""
    counts: dict[str, int] = {}
    for record in result.trials:
        for text in getattr(record.observation, field):
            counts[text] = counts.get(text, 0) + 1
    return list(counts.items())
