"""Trials and soaks through an Ollama: a fake one in front of a real llama-server, with a real model."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama.api import Api
from narthex.engines.ollama.discovery import engine_of, find_server
from narthex.engines.ollama.loading import OllamaLoader
from narthex.engines.ollama.logs import open_log
from narthex.host.collect import collect_host
from narthex.models.inspection import Inspection
from narthex.outcomes import Outcome
from narthex.testing.fake_ollama import FakeOllama
from narthex.trials.runner import EngineRunner
from narthex.trials.soak import soak
from narthex.trials.trial import Trial, Turn

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Ask = Callable[..., Trial]
Start = Callable[..., FakeOllama]
MODEL = "small-270m:latest"


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


def at(word: str, act: Callable[[], object]) -> Callable[[str, float | None], None]:
    """A watch that does something when a stage is told for the first time."""
    done: list[str] = []

    def watch(stage: str, share: float | None) -> None:
        if stage == word and not done:
            done.append(stage)
            act()

    return watch


@pytest.fixture
def begin(
    fake_ollama: Start, gemma: Path, inspection: Inspection, tmp_path: Path
) -> Callable[..., tuple[FakeOllama, EngineRunner]]:
    """Starts a fake and makes the runner for it."""

    def start(**options: object) -> tuple[FakeOllama, EngineRunner]:
        fake = fake_ollama(models={MODEL: gemma}, **options)
        server = find_server(fake.url)
        engine = engine_of(server, collect_host(), open_log(server))
        # The store links the file as it is, so its digest is the blob's.
        (blob,) = (path.name.removeprefix("sha256-") for path in _weights(fake))
        loader = OllamaLoader(server, engine, MODEL, blob=blob, log_dir=tmp_path)
        return fake, EngineRunner(loader, inspection)

    return start


Begin = Callable[..., tuple[FakeOllama, EngineRunner]]


def _weights(fake: FakeOllama) -> list[Path]:
    return [path for path in (fake.store / "blobs").iterdir() if path.stat().st_size > 2**20]


@pytest.fixture
def small(ask: Ask) -> Ask:
    """Trials whose batch is what Ollama can have."""
    return lambda **given: ask(**{"num_ctx": 1024, "batch": 512, "ubatch": 512, **given})


def test_a_trial_and_a_soak_go_from_end_to_end(begin: Begin, small: Ask) -> None:
    fake, runner = begin()
    stages: list[str] = []
    seen = runner.run(
        small(repeats=2, purpose="manual", turn=Turn(depth=200, prompt_tokens=100, generate=24)),
        lambda stage, share: stages.append(stage),
    )
    assert seen.outcome is Outcome.DONE, seen.reason
    assert len(seen.turns) == 2
    for turn in seen.turns:
        assert turn.prompt_tokens == pytest.approx(300, rel=0.2)
        assert 2 <= turn.generated <= 24
        assert turn.prompt_tps
        assert turn.decode_tps
        assert turn.ttft_s
    (end,) = seen.end_turns
    assert 0.85 * 1024 < end.prompt_tokens + end.generated <= 1024
    assert seen.report is not None
    assert any(row.context_bytes for row in seen.report.buffers)
    assert seen.peaks.ram_bytes  # the runner's process was found
    assert not any("loaded" in doubt for doubt in seen.doubts), seen.doubts
    assert {"loading", "warm-up", "decode", "full context", "stopping"} <= set(stages)
    assert fake.runner_pids() == []

    report = soak(runner, small(purpose="soak"), seconds=5, watch=quiet)
    assert report.outcome is Outcome.DONE, report.reason
    assert report.fill_max >= 0.9
    assert report.ram_growth_bytes is not None
    assert report.doubts == ()
    assert fake.runner_pids() == []


def test_the_slots_of_a_server_are_timed_together(begin: Begin, small: Ask) -> None:
    _, runner = begin(env={"OLLAMA_NUM_PARALLEL": "2"})
    seen = runner.run(small(parallel=2), quiet)
    assert seen.outcome is Outcome.DONE, seen.reason
    assert seen.decode_tps
    assert any("several streams" in gap for gap in seen.gaps)


def test_a_runner_killed_while_it_computes_is_data(begin: Begin, small: Ask) -> None:
    fake, runner = begin()
    trial = small(turn=Turn(depth=128, prompt_tokens=64, generate=256))
    seen = runner.run(trial, at("decode", fake.kill_runner))
    assert seen.outcome in {Outcome.RUNNER_DIED, Outcome.KILLED_BY_KERNEL, Outcome.CRASHED}, seen.reason
    assert seen.reason
    assert seen.counts_as_load


def test_a_server_that_restarts_in_mid_trial_is_waited_for(begin: Begin, small: Ask) -> None:
    fake, runner = begin()

    def restart() -> None:
        fake.kill()
        threading.Timer(1.0, fake.start).start()

    trial = small(turn=Turn(depth=128, prompt_tokens=64, generate=64), repeats=2)
    seen = runner.run(trial, at("decode", restart))
    assert seen.outcome is Outcome.DONE, seen.reason
    assert len(seen.turns) == 2
    assert any("went down" in doubt for doubt in seen.doubts)


def test_another_client_that_loads_it_anew_is_a_doubt(begin: Begin, small: Ask) -> None:
    fake, runner = begin()

    def steal() -> None:
        options = {"num_ctx": 256, "num_predict": 1}
        body: dict[str, Any] = {"model": MODEL, "prompt": "x", "options": options}
        thread = threading.Thread(target=lambda: _send(fake.url, body))
        thread.start()

    trial = small(repeats=3, turn=Turn(depth=200, prompt_tokens=100, generate=64))
    seen = runner.run(trial, at("decode", steal))
    assert seen.outcome is Outcome.DONE, seen.reason
    assert any("anew" in doubt or "loaded for" in doubt for doubt in seen.doubts), seen.doubts


def _send(url: str, body: dict[str, Any]) -> None:
    with Api(url).stream("/api/generate", body, timeout_s=60) as answers:
        list(answers)


def test_ctrl_c_ends_the_request_and_lets_the_model_go(begin: Begin, small: Ask) -> None:
    fake, runner = begin()
    trial = small(num_ctx=8192, turn=Turn(depth=128, prompt_tokens=64, generate=4000))
    stop = at("decode", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        runner.run(trial, stop)
    until = time.monotonic() + 20
    while fake.runner_pids() and time.monotonic() < until:
        time.sleep(0.1)
    assert fake.runner_pids() == []


@pytest.mark.parametrize("version", ["0.3.14", "0.11.0", "0.12.0"])
def test_older_servers_are_asked_in_the_same_way(begin: Begin, small: Ask, version: str) -> None:
    _, runner = begin(version=version)
    seen = runner.run(small(purpose="manual"), quiet)
    assert seen.outcome is Outcome.DONE, seen.reason
    assert seen.turns[0].decode_tps
