"""What a soak has seen, judged limit by limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from narthex.engines._base import Failure
from narthex.outcomes import Outcome
from narthex.trials.endurance import conclude, growth, late_growth, speed_drift
from narthex.trials.soak import Seen, SoakLimit, SoakSample, SoakTurn
from narthex.units import GIB, MIB

FULL = (920,)
HALF = (500,)


def turns(*speeds: float, sizes: tuple[int, ...] = FULL) -> list[SoakTurn]:
    return [
        SoakTurn(began_s=number, ended_s=number + 1, sizes=sizes, generated=64, decode_tps=speed)
        for number, speed in enumerate(speeds)
    ]


def series(vram: Sequence[int | None], ram: Sequence[int | None] | None = None) -> tuple[SoakSample, ...]:
    ram = ram or [GIB] * len(vram)
    return tuple(
        SoakSample(at_s=float(at), vram_bytes=card, ram_bytes=main, decode_tps=50.0, fill=0.9)
        for at, (card, main) in enumerate(zip(vram, ram, strict=True))
    )


def seen(**given: Any) -> Seen:
    usual: dict[str, Any] = {
        "slot_ctx": 1000,
        "seconds": 150.0,
        "turns": turns(*[50.0] * 10),
        "samples": series([8 * GIB] * 150),
        "fill_max": 0.98,
        "vram_free_bytes": 205 * MIB,
        "ram_free_bytes": 16 * GIB,
    }
    return Seen(**{**usual, **given})


def test_a_calm_soak_is_done() -> None:
    report = conclude(seen())
    assert report.outcome is Outcome.DONE
    assert report.broke is None
    assert report.vram_growth_bytes == 0
    assert report.speed_drift == 0
    assert "98%" in report.reason


def test_growth_once_when_the_context_is_first_full_is_no_leak() -> None:
    report = conclude(seen(samples=series([8 * GIB] * 20 + [8 * GIB + 150 * MIB] * 130)))
    assert report.outcome is Outcome.DONE
    assert report.vram_growth_bytes == 150 * MIB


def test_steady_growth_of_gpu_memory_is_unstable() -> None:
    report = conclude(seen(samples=series([8 * GIB + at * MIB for at in range(150)])))
    assert report.outcome is Outcome.UNSTABLE
    assert "GPU memory kept growing" in report.reason
    assert report.broke is SoakLimit.GPU_MEMORY
    assert report.vram_slope_bytes_s == pytest.approx(MIB)


def test_growth_that_the_free_memory_bears_for_an_hour_is_no_leak() -> None:
    report = conclude(
        seen(samples=series([8 * GIB + at * MIB for at in range(150)]), vram_free_bytes=40 * GIB)
    )
    assert report.outcome is Outcome.DONE


def test_steady_growth_of_main_memory_is_unstable() -> None:
    ram: list[int | None] = [GIB + at * 20 * MIB for at in range(150)]
    report = conclude(seen(samples=series([None] * 150, ram)))
    assert report.outcome is Outcome.UNSTABLE
    assert "Main memory kept growing" in report.reason
    assert report.broke is SoakLimit.MAIN_MEMORY


def test_a_prompt_cache_that_fills_up_is_no_leak_until_it_passes_its_limit() -> None:
    growing = series([8 * GIB] * 150, [GIB + number * 55 * MIB for number in range(150)])
    assert conclude(seen(samples=growing, ram_cache_bytes=8 * GIB)).outcome is Outcome.DONE
    report = conclude(seen(samples=growing, ram_cache_bytes=4 * GIB))
    assert report.outcome is Outcome.UNSTABLE


def test_without_a_gpu_the_vram_figures_are_unknown() -> None:
    report = conclude(seen(samples=series([None] * 150), vram_free_bytes=None))
    assert report.outcome is Outcome.DONE
    assert report.vram_growth_bytes is None
    assert report.vram_slope_bytes_s is None


def test_a_failure_keeps_its_outcome_and_line() -> None:
    failure = Failure(outcome=Outcome.OUT_OF_MEMORY_COMPUTE, line="CUDA error: out of memory")
    report = conclude(seen(failure=failure, errors=1, fill_max=0.0, turns=[]))
    assert report.outcome is Outcome.OUT_OF_MEMORY_COMPUTE
    assert report.reason == "CUDA error: out of memory"
    assert report.broke is SoakLimit.ENGINE
    assert conclude(seen(failure=failure, tenant_failed=True)).broke is SoakLimit.TENANT


def test_decoding_that_slows_down_is_unstable() -> None:
    report = conclude(seen(turns=turns(50, 50, 49, 48, 47, 45, 42, 40, 39, 38)))
    assert report.outcome is Outcome.UNSTABLE
    assert "slower" in report.reason


def test_a_slowdown_that_other_programs_may_have_made_proves_nothing_against_it() -> None:
    report = conclude(seen(turns=turns(50, 50, 49, 48, 47, 45, 42, 40, 39, 38), others_busy=True))
    assert report.outcome is Outcome.DONE
    assert report.speed_drift is not None
    assert report.speed_drift < -0.15


def test_different_fills_are_no_drift() -> None:
    rounds = [
        turn for pair in zip(turns(*[50.0] * 5), turns(*[90.0] * 5, sizes=HALF), strict=True) for turn in pair
    ]
    assert speed_drift(rounds) == 0


def test_one_round_of_each_size_tells_no_drift() -> None:
    assert speed_drift([*turns(50.0), *turns(90.0, sizes=HALF)]) is None


def test_a_context_that_was_never_full_is_not_proven() -> None:
    report = conclude(seen(fill_max=0.7))
    assert report.outcome is Outcome.UNSTABLE
    assert report.reason.startswith("Not proven")


def test_a_few_readings_tell_no_slope() -> None:
    assert late_growth([0.0, 1.0], [GIB, 2 * GIB]) == (None, 0)


def test_growth_is_the_peak_over_the_first_reading() -> None:
    assert growth([None, 5, 9, 7]) == 4
    assert growth([None, None]) is None
