"""Whether a soak proves a setting: pure judgement of what it has seen, limit by limit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, median

from narthex.outcomes import Outcome
from narthex.trials.soak import Seen, SoakLimit, SoakReport, SoakTurn
from narthex.units import MIB, format_count, format_duration, format_size

LEAK_HORIZON_S = 3600.0
"""Growth that would use up the free memory within an hour ends a working day early."""
VRAM_NOISE = 16 * MIB
"""The driver hands out memory in pieces of 2 MiB; a few of them late in a soak are no leak."""
RAM_NOISE = 256 * MIB
"""Resident memory also grows as mapped file pages are touched and as contexts are checkpointed."""
DRIFT_LIMIT = -0.15
"""Slower by more than this at equal fill, with the same work: heat, power or a fragmented cache."""
DRIFT_TURNS = 8
"""Fewer rounds than this can't tell drift from chance."""
NEEDED_FILL = 0.90
"""Share of the context that must have been full once."""
MIN_SAMPLES = 12


def conclude(seen: Seen) -> SoakReport:
    """The report: DONE where every limit held, else the outcome with the reason in one sentence."""
    drift = speed_drift(seen.turns)
    at = [sample.at_s for sample in seen.samples]
    vram = [sample.vram_bytes for sample in seen.samples]
    ram = [sample.ram_bytes for sample in seen.samples]
    vram_slope, vram_late = late_growth(at, vram)
    ram_slope, ram_late = late_growth(at, ram)
    if (growth(ram) or 0) <= seen.ram_cache_bytes + RAM_NOISE:
        ram_late = 0  # a cache that fills up once, as far as it may
    vram_leak = _leak("GPU memory", vram_slope, vram_late, seen.vram_free_bytes, VRAM_NOISE)
    ram_leak = _leak("main memory", ram_slope, ram_late, seen.ram_free_bytes, RAM_NOISE)
    problems: tuple[tuple[SoakLimit, Problem], ...] = (
        (SoakLimit.TENANT if seen.tenant_failed else SoakLimit.ENGINE, _broken(seen)),
        (SoakLimit.GPU_MEMORY, vram_leak),
        (SoakLimit.MAIN_MEMORY, ram_leak),
        (SoakLimit.SPEED, _slowing(seen, drift)),
        (SoakLimit.FILL, _not_full(seen)),
    )
    broke, problem = next((row for row in problems if row[1]), (None, None))
    outcome, reason = problem or (Outcome.DONE, _held(seen, vram))
    return SoakReport(
        outcome=outcome,
        reason=reason,
        seconds=seen.seconds,
        turns=len(seen.turns),
        errors=seen.errors,
        longest_stall_s=seen.longest_stall_s,
        fill_max=seen.fill_max,
        vram_growth_bytes=growth(vram),
        ram_growth_bytes=growth(ram),
        vram_slope_bytes_s=vram_slope,
        ram_slope_bytes_s=ram_slope,
        speed_drift=drift,
        samples=tuple(seen.samples),
        beside=seen.beside,
        jobs=seen.jobs,
        doubts=tuple(seen.doubts),
        broke=broke,
    )


def growth(values: Sequence[int | None]) -> int | None:
    """The peak over the first reading, in bytes; None where nothing was read."""
    known = [value for value in values if value is not None]
    return max(known) - known[0] if known else None


def late_growth(at: Sequence[float], values: Sequence[int | None]) -> tuple[float | None, int]:
    """Slope in bytes/s over the last three quarters, and the bytes by which it kept growing there.

    The bytes are 0 unless each quarter's mean is above the one before: buffers that grow once, when the
    context is first full, are no leak. Slope is None with too few readings.
    """
    known = [(time, value) for time, value in zip(at, values, strict=True) if value is not None]
    if len(known) < MIN_SAMPLES:
        return None, 0
    length = len(known) // 4
    quarters = [known[-length * back : len(known) - length * (back - 1)] for back in (3, 2, 1)]
    times = [mean(time for time, _ in quarter) for quarter in quarters]
    means = [mean(value for _, value in quarter) for quarter in quarters]
    if times[2] <= times[0]:
        return None, 0
    slope = (means[2] - means[0]) / (times[2] - times[0])
    steady = means[0] < means[1] < means[2]
    return slope, int(means[2] - means[0]) if steady else 0


def speed_drift(turns: Sequence[SoakTurn]) -> float | None:
    """Decode speed of the last quarter over the first at equal sizes, −1; None where no sizes came twice."""
    by_size: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for turn in turns:
        if turn.decode_tps is not None:
            by_size[turn.sizes].append(turn.decode_tps)
    drifts = []
    for speeds in by_size.values():
        if len(speeds) > 1:
            part = max(1, len(speeds) // 4)
            drifts.append(median(speeds[-part:]) / median(speeds[:part]) - 1)
    return median(drifts) if drifts else None


Problem = tuple[Outcome, str] | None


def _broken(seen: Seen) -> Problem:
    if seen.failure is None:
        return None
    return seen.failure.outcome, seen.failure.line


def _leak(what: str, slope: float | None, grown: int, free: int | None, noise: int) -> Problem:
    if slope is None or free is None or grown < noise or slope * LEAK_HORIZON_S < free:
        return None
    text = (
        f"{what} kept growing, {format_size(int(slope * 60))} a minute: the {format_size(free)} left "
        f"would last {format_duration(free / slope)}"
    )
    return Outcome.UNSTABLE, text[0].upper() + text[1:] + "."


def _slowing(seen: Seen, drift: float | None) -> Problem:
    if drift is None or drift >= DRIFT_LIMIT or len(seen.turns) < DRIFT_TURNS:
        return None
    if seen.others_busy:
        return None  # it may be theirs
    return Outcome.UNSTABLE, f"Decoding became {-drift:.0%} slower at equal context while it soaked."


def _not_full(seen: Seen) -> Problem:
    if seen.fill_max >= NEEDED_FILL:
        return None
    return (
        Outcome.UNSTABLE,
        f"Not proven: the fullest context was {seen.fill_max:.0%}, {NEEDED_FILL:.0%} is needed.",
    )


def _held(seen: Seen, vram: Sequence[int | None]) -> str:
    grown = growth(vram)
    rounds = format_count(len(seen.turns), "round")
    jobs = f", beside {format_count(seen.jobs or 0, 'job')} of {seen.beside}" if seen.beside else ""
    memory = f", GPU memory grew by {format_size(grown)}" if grown is not None else ""
    return (
        f"{format_duration(seen.seconds)} with up to {seen.fill_max:.0%} of the context full, "
        f"{rounds} without an error{memory}{jobs}."
    )
