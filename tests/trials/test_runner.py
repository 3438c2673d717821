"""Trials of a real engine with a real model: every end is data."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from narthex.engines.llama_loader import LlamaLoader
from narthex.outcomes import Outcome
from narthex.trials.llama_client import tokenize
from narthex.trials.runner import EngineRunner
from narthex.trials.session import Session
from narthex.trials.trial import Trial, Turn
from narthex.trials.verdict import Judgement, judge
from narthex.trials.workload import Prompts

pytestmark = pytest.mark.engine

Ask = Callable[..., Trial]


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


def engines_of_this_test() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "llama-server" in " ".join(child.cmdline()[:1])]


def test_a_trial_measures_speed_memory_and_the_share_of_the_limit(runner: EngineRunner, ask: Ask) -> None:
    stages: list[str] = []
    seen = runner.run(ask(repeats=2, purpose="baseline:house"), lambda stage, share: stages.append(stage))
    assert seen.outcome is Outcome.DONE, seen.reason
    assert len(seen.turns) == 2
    for turn in seen.turns:
        assert turn.prompt_tokens == 128 + 64
        assert turn.generated == 16
        assert turn.ttft_s
        assert turn.turn_s == pytest.approx(64 / (turn.prompt_tps or 0) + 16 / (turn.decode_tps or 0))
    assert seen.load_s
    assert seen.peaks.ram_bytes
    assert seen.report is not None
    assert any(buffers.model_bytes for buffers in seen.report.buffers)
    assert seen.bandwidth_share is None or seen.bandwidth_share > 0
    assert not any("cache" in doubt for doubt in seen.doubts)
    assert judge(seen).judgement in {Judgement.USABLE, Judgement.NOT_PROVEN}  # a busy machine spreads repeats
    assert {"loading", "warm-up", "prompt", "decode", "full context", "stopping"} <= set(stages)
    assert engines_of_this_test() == []


def test_a_baseline_is_timed_near_the_contexts_end_too(runner: EngineRunner, ask: Ask) -> None:
    (end,) = runner.run(ask(purpose="baseline:house"), quiet).end_turns
    assert end.prompt_tokens + end.generated > 0.95 * 512


def test_a_turn_that_fills_the_context_is_itself_the_one_near_its_end(runner: EngineRunner, ask: Ask) -> None:
    seen = runner.run(ask(turn=Turn(depth=400, prompt_tokens=64, generate=16)), quiet)
    assert seen.end_turns == seen.turns


def test_two_slots_are_timed_at_the_same_time(runner: EngineRunner, ask: Ask) -> None:
    seen = runner.run(ask(parallel=2), quiet)
    assert seen.outcome is Outcome.DONE, seen.reason
    assert seen.decode_tps
    assert seen.bandwidth_share is None
    assert any("several streams" in gap for gap in seen.gaps)


def test_a_turn_longer_than_the_context_costs_no_load(runner: EngineRunner, ask: Ask) -> None:
    seen = runner.run(ask(turn=Turn()), quiet)
    assert seen.outcome is Outcome.UNSUPPORTED_SETTING
    assert "longer than the context" in seen.reason
    assert not seen.counts_as_load


def test_what_the_engine_refuses_keeps_its_line(runner: EngineRunner, ask: Ask) -> None:
    seen = runner.run(ask(kv_type="q8_0", flash_attn="off"), quiet)
    assert seen.outcome is Outcome.UNSUPPORTED_SETTING, seen.reason
    assert "cache" in seen.reason.lower()
    assert seen.turns == ()


def test_an_engine_killed_while_it_computes_is_data(runner: EngineRunner, ask: Ask) -> None:
    def kill_it(stage: str, share: float | None) -> None:
        if stage == "prompt":
            for process in engines_of_this_test():
                os.kill(process.pid, signal.SIGKILL)

    seen = runner.run(ask(), kill_it)
    assert seen.outcome in {Outcome.CRASHED, Outcome.KILLED_BY_KERNEL}
    assert seen.reason
    assert seen.load_s
    assert engines_of_this_test() == []


def test_ctrl_c_stops_the_engine_and_gets_out(runner: EngineRunner, ask: Ask) -> None:
    told: list[str] = []

    def stop(stage: str, share: float | None) -> None:
        if stage == "decode" and not told:  # told by the stream's own thread; the signal reaches the main one
            told.append(stage)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runner.run(ask(), stop)
    assert engines_of_this_test() == []


def test_too_little_memory_is_out_of_memory_with_its_line(
    runner: EngineRunner, narrow_engine: Path, gemma: Path, ask: Ask, tmp_path: Path
) -> None:
    narrow = msgspec.structs.replace(runner.engine, path=str(narrow_engine))
    loader = LlamaLoader(narrow, gemma, log_dir=tmp_path)
    trial = ask(num_ctx=32768, parallel=8, gpu_layers=0)
    seen = EngineRunner(loader, runner.inspection).run(trial, quiet)
    assert seen.outcome is Outcome.OUT_OF_MEMORY, seen.reason
    assert "alloc" in seen.reason


def test_a_prompt_has_the_exact_size_for_the_real_tokenizer(runner: EngineRunner, ask: Ask) -> None:
    with runner.launch(ask(), quiet) as engine:
        for workload in ("chat", "code"):
            prompts = Prompts(workload)
            first, second = (prompts.tokens(300, partial(tokenize, engine.url)) for _ in range(2))
            assert len(first) == len(second) == 300
            assert first[0] == second[0]  # begin of text
            assert first[1:8] != second[1:8]
            answer = Session(engine, prompts).ask([300], generate=4, timeout_s=60)
            assert answer.failure is None
            assert (answer.replies[0].prompt_n, answer.cached) == (300, 0)


def test_a_prompt_beyond_the_context_is_a_failed_request_in_the_engines_words(
    runner: EngineRunner, ask: Ask
) -> None:
    with runner.launch(ask(), quiet) as engine:
        answer = Session(engine, Prompts()).ask([2000], generate=4, timeout_s=60)
    assert answer.failure is not None
    assert answer.failure.outcome is Outcome.REQUEST_FAILED
    assert "context" in answer.failure.line
