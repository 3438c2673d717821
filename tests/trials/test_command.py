"""``narthex trial`` and ``narthex soak`` as a person types them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.engines._base import Engine
from narthex.host.collect import collect_host
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.outcomes import Outcome
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile, save_profile
from narthex.trials.trial import Turn, model_ref

pytestmark = pytest.mark.engine

SHORT = ("--depth", "64", "--prompt-tokens", "32", "--generate", "16", "--repeats", "1", "--plain")


def narthex(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(command, list(words))
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = narthex(capsys, *words, "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def profile_of(inspection: Inspection, engine: Engine) -> Profile:
    return Profile(
        name="gemma-short",
        model=model_ref(inspection),
        engine_kind=engine.kind,
        engine_key=engine.key,
        engine_build=engine.build,
        host_key=collect_host().key,
        gpu=None,
        driver=None,
        goal="fastest",
        knobs=KnobValues(num_ctx=256, gpu_layers=0, batch=128, ubatch=128, threads=2),
        turn=Turn(depth=64, prompt_tokens=32, generate=16),
        turn_s=None,
        decode_tps=None,
        prompt_tps=None,
        created_at=time.time(),
    )


def test_the_manual_loop_turns_one_knob_after_another(
    gemma: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with_engine = ("--engine-path", engine.path)
    first = asked(capsys, "trial", str(gemma), "--set", "ctx=512", *SHORT, *with_engine)
    assert first["start"] == "the house defaults"
    assert first["outcome"] == "done"
    assert first["knobs"]["num_ctx"] == 512
    assert first["turn"] == {"depth": 64, "prompt_tokens": 32, "generate": 16}
    assert first["plan"]["devices"]

    # the next one starts where the last one was, its turn included, and shows what changed
    code, out, err = narthex(
        capsys, "trial", str(gemma), "--set", "batch=128", "--repeats", "1", "--plain", *with_engine
    )
    assert code == 0, err
    assert "batch 256 → 128 (from the last trial)" in out
    assert "32 prompt tokens at depth 64" in out
    assert "last trial" in out
    assert "loading" in err
    with Journal.open() as journal:
        trials = journal.trials(None)
        predictions = journal.predictions()
    assert [record.trial.knobs.batch for record in trials] == [256, 128]
    assert {row.term for row in predictions} == {"model", "context", "compute"}


def test_two_knobs_at_once_are_refused_without_a_load(
    gemma: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--set", "ctx=512", "--set", "batch=128", "--engine-path", engine.path)
    code, _, err = narthex(capsys, "trial", str(gemma), *words)
    assert code == 2
    assert "--many" in err
    with Journal.open() as journal:
        assert journal.trials(None) == []


def test_more_threads_than_cores_are_refused(
    gemma: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = collect_host().physical_cores
    if cores is None:
        pytest.skip("the kernel does not tell the cores")
    words = ("--set", f"threads={cores + 1}", "--engine-path", engine.path)
    code, _, err = narthex(capsys, "trial", str(gemma), *words)
    assert code == 2
    assert "physical cores" in err


def test_a_setting_that_the_planner_knows_to_be_refused_costs_no_load(
    gemma: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--set", "kv_type=q8_0", "--set", "flash_attn=off", "--many", "--engine-path", engine.path)
    code, _, err = narthex(capsys, "trial", str(gemma), *words, *SHORT)
    assert code == 2
    assert "flash attention" in err


def test_a_trial_that_fails_is_journaled_with_its_line(
    gemma: Path, narrow_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--set", "ctx=32768", "--set", "parallel=8", "--many", "--engine-path", str(narrow_engine))
    code, out, err = narthex(capsys, "trial", str(gemma), *words, *SHORT)
    assert code == 1, err
    assert "out of memory" in out
    with Journal.open() as journal:
        (record,) = journal.trials(None)
    assert record.observation.outcome is Outcome.OUT_OF_MEMORY
    assert "alloc" in record.observation.reason


def test_a_profile_is_the_start_and_its_soaks_add_up(
    engine: Engine, inspection: Inspection, gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.open() as journal:
        save_profile(journal, profile_of(inspection, engine))
    with_engine = ("--engine-path", engine.path, "--plain")
    tried = asked(capsys, "trial", str(gemma), "--from", "gemma-short", "--repeats", "1", *with_engine)
    assert tried["start"] == "profile gemma-short"
    assert tried["difference"] == {}

    once = asked(capsys, "soak", "gemma-short", "--for", "2s", *with_engine)
    assert once["proven"]
    twice = asked(capsys, "soak", "gemma-short", "--for", "2s", *with_engine)
    assert twice["soak_s"] == pytest.approx(once["soak_s"] + twice["report"]["seconds"])
    with Journal.open() as journal:
        assert len(journal.soaks(profile="gemma-short")) == 2
        assert load_profile(journal, "gemma-short").soak_s == pytest.approx(twice["soak_s"])


def test_a_soak_of_no_length_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = narthex(capsys, "soak", "anything", "--for", "0")
    assert code == 2
    assert "proves nothing" in err


def test_a_profile_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert narthex(capsys, "soak", "nobody", "--for", "1s")[0] == 6
