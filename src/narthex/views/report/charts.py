"""The page's charts: memory by context, the Pareto front, and a soak's curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.records import StudyResult
from narthex.trials.soak import SoakReport, SoakSample
from narthex.trials.trial import TrialRecord
from narthex.units import GIB, MIB, format_size
from narthex.views.figures import chosen_speed, every_trial
from narthex.views.report.memory import MemoryPicture
from narthex.views.report.svg import LEFT, RIGHT, WIDTH, Axis, Chart, axis, time_axis, token_axis, tokens
from narthex.views.text import BASELINE_WORDS, OUTCOME_WORDS

TERMS = (
    ("model_bytes", "weights", "c1"),
    ("context_bytes", "context", "c2"),
    ("compute_bytes", "compute", "c3"),
    ("overhead_bytes", "overhead", "c4"),
)


def memory_chart(picture: MemoryPicture, name: str) -> str:
    """Stacked bars of the terms at each context, with a line at what is free."""
    tallest = max(bar.need_bytes for bar in picture.bars)
    # Far more than is needed would press the bars flat; the caption tells the figure anyway.
    free = picture.free_bytes if picture.free_bytes and picture.free_bytes <= 2.5 * tallest else None
    contexts = [bar.num_ctx for bar in picture.bars]
    chart = Chart(
        name,
        f"Memory on {picture.device} by context",
        "Weights, context, compute and overhead stacked for each context length, "
        "and a line at the memory that is free.",
        x=_places(contexts),
        y=_bytes_axis(0, max(tallest, free or 0) * 1.08),
    )
    wide = (WIDTH - LEFT - RIGHT) / max(len(contexts), 1) * 0.66
    for place, bar in enumerate(picture.bars):
        low = 0
        for field, word, style in TERMS:
            size = getattr(bar, field)
            title = f"ctx {bar.num_ctx}: {word} {format_size(size)}"
            faded = "" if bar.num_ctx == picture.knobs.num_ctx else " faded"
            chart.bar(place, low, low + size, style + faded, width=wide, title=title)
            low += size
    if free is not None:
        chart.rule(free, f"free {format_size(free)}", "limit")
    return chart.render()


def pareto_chart(result: StudyResult) -> str | None:
    """Turn time over context: every finished trial, the front, the winner; failures along the upper edge."""
    records = every_trial(result)
    done = [record for record in records if record.observation.turn_s is not None]
    if not done:
        return None
    failed = [record for record in records if _failed(record)]
    contexts = [record.trial.knobs.num_ctx for record in (*done, *failed)]
    turns = [record.observation.turn_s or 0.0 for record in done]
    chart = Chart(
        "pareto",
        "Turn time by context",
        "Each finished trial by its context length and its turn time; lower and further right is better. "
        "Failed trials are crosses along the upper edge.",
        x=token_axis(min(contexts), max(contexts), "context, tokens"),
        y=time_axis(min(turns), max(turns), "seconds a turn"),
        height=270,
    )
    front = pareto_front(done)
    chart.steps([(r.trial.knobs.num_ctx, r.observation.turn_s or 0.0) for r in front], "front")
    for record in sorted(done, key=lambda record: record.trial.knobs == result.chosen):  # the winner on top
        chosen = record.trial.knobs == result.chosen
        style = "chosen" if chosen else "front-dot" if record in front else "dot"
        chart.dot(record.trial.knobs.num_ctx, record.observation.turn_s or 0.0, style, _hover(record))
    for record in failed:
        chart.cross(record.trial.knobs.num_ctx, 20, "bad", _hover(record))
    chart.labels(_labels(result))
    return chart.render()


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that no other beats in both context and turn time, shortest context first."""
    front: list[TrialRecord] = []
    best = float("inf")
    for record in sorted(records, key=lambda r: (-r.trial.knobs.num_ctx, r.observation.turn_s or 0.0)):
        turn_s = record.observation.turn_s
        if turn_s is not None and turn_s < best:
            best = turn_s
            front.append(record)
    return front[::-1]


def soak_charts(report: SoakReport, name: str) -> list[tuple[str, str]]:
    """Up to four curves over the soak's time, each with its title; one that was never read is left out."""
    gib = _byte_unit([*_column(report, "vram_bytes"), *_column(report, "ram_bytes")])
    rows: list[tuple[str, str, str, Callable[[float, float], Axis]]] = [
        ("vram_bytes", "VRAM", "c1", lambda low, high: _bytes_axis(low, high, gib)),
        ("ram_bytes", "Main memory", "c4", lambda low, high: _bytes_axis(low, high, gib)),
        ("decode_tps", "Decode speed", "c2", lambda low, high: axis(0, high, "tokens/s", count=4)),
        (
            "fill",
            "Context in use",
            "c3",
            lambda low, high: axis(0, 1, "% of the context", unit=0.01, count=4),
        ),
    ]
    charts = []
    for field, title, style, make in rows:
        values = _column(report, field)
        if len(values) < 2:
            continue
        low, high = min(values), max(values)
        pad = max((high - low) * 0.25, high * 0.02)
        last = max(sample.at_s for sample in report.samples)
        chart = Chart(
            f"{name}-{field}",
            title,
            f"{title} over {last:.0f} seconds of soak, from {low:.4g} to {high:.4g}.",
            x=axis(0, last, "seconds"),
            y=make(max(low - pad, 0), high + pad),
            height=190,
        )
        chart.line(_curve(report.samples, field), style)
        charts.append((title, chart.render()))
    return charts


def _places(contexts: Sequence[int]) -> Axis:
    ticks = tuple((float(place), tokens(ctx)) for place, ctx in enumerate(contexts))
    return Axis(low=-0.6, high=len(contexts) - 0.4, label="context, tokens", ticks=ticks)


def _byte_unit(values: Sequence[float]) -> int:
    return GIB if max(values, default=0) >= GIB else MIB


def _bytes_axis(low: float, high: float, unit: int | None = None) -> Axis:
    unit = unit or _byte_unit([high])
    return axis(low, high, "GiB" if unit == GIB else "MiB", unit=unit, count=4)


def _column(report: SoakReport, field: str) -> list[float]:
    return [value for sample in report.samples if (value := getattr(sample, field)) is not None]


def _curve(samples: Sequence[SoakSample], field: str) -> list[tuple[float, float]]:
    """The readings that there are; speed is only known while the engine answers."""
    return [(s.at_s, float(value)) for s in samples if (value := getattr(s, field)) is not None]


def _failed(record: TrialRecord) -> bool:
    return record.observation.outcome not in (Outcome.DONE, Outcome.INTERRUPTED)


def _hover(record: TrialRecord) -> str:
    seen = record.observation
    words = OUTCOME_WORDS[seen.outcome] if seen.turn_s is None else f"{seen.turn_s:.2f} s a turn"
    return f"{words}: {record.trial.knobs.describe()}"


def _labels(result: StudyResult) -> list[tuple[float, float, str, str]]:
    found: dict[KnobValues, tuple[float, float, str, str]] = {}
    for row in result.baselines:
        turn_s = row.record.observation.turn_s if row.record else None
        if turn_s is not None:
            words = BASELINE_WORDS.get(row.name, row.name)
            found[row.knobs] = (row.knobs.num_ctx, turn_s, words, "label")
    best = chosen_speed(result).turn_s
    if result.chosen is not None and best is not None:
        found[result.chosen] = (result.chosen.num_ctx, best, "chosen", "label-chosen")
    return list(found.values())
