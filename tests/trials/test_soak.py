"""Soaks of a real engine: short ones, and one that dies on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from narthex.outcomes import Outcome
from narthex.trials.runner import EngineRunner
from narthex.trials.soak import soak
from narthex.trials.trial import Trial

pytestmark = pytest.mark.engine

Ask = Callable[..., Trial]


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


def test_a_soak_fills_the_context_of_every_slot_and_tells_what_it_saw(runner: EngineRunner, ask: Ask) -> None:
    shares: list[float] = []
    report = soak(
        runner,
        ask(parallel=2, purpose="soak"),
        seconds=8,
        watch=lambda stage, share: shares.append(share or 0.0) if stage == "soaking" else None,
    )
    assert report.outcome is Outcome.DONE, report.reason
    assert report.seconds >= 8
    assert report.turns >= 1
    assert report.errors == 0
    assert report.fill_max >= 0.9
    assert report.ram_growth_bytes is not None
    assert len(report.samples) >= 4
    assert any((sample.fill or 0) > 0.9 for sample in report.samples)
    assert shares == sorted(shares)


def test_a_soak_of_no_time_still_fills_the_context_once(runner: EngineRunner, ask: Ask) -> None:
    report = soak(runner, ask(), seconds=0.1, watch=quiet)
    assert report.outcome is Outcome.DONE, report.reason
    assert report.turns == 1
    assert report.fill_max >= 0.9


def test_an_engine_that_dies_while_it_soaks_has_not_survived(runner: EngineRunner, ask: Ask) -> None:
    rounds = 0

    def kill_in_the_second_round(stage: str, share: float | None) -> None:
        nonlocal rounds
        rounds += stage == "soaking"
        if rounds == 2:
            for child in psutil.Process().children(recursive=True):
                if "llama-server" in " ".join(child.cmdline()[:1]):
                    os.kill(child.pid, signal.SIGKILL)

    report = soak(runner, ask(), seconds=60, watch=kill_in_the_second_round)
    assert report.outcome in {Outcome.CRASHED, Outcome.KILLED_BY_KERNEL}
    assert report.reason
    assert report.errors == 1
    assert report.turns == 1
    assert report.samples


def test_a_setting_that_does_not_load_has_not_survived(runner: EngineRunner, ask: Ask) -> None:
    report = soak(runner, ask(kv_type="q8_0", flash_attn="off"), seconds=5, watch=quiet)
    assert report.outcome is Outcome.UNSUPPORTED_SETTING
    assert (report.turns, report.errors, report.seconds) == (0, 1, 0.0)
