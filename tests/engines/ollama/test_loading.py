"""Loads in an Ollama: what is asked, what came of it, and how they fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import msgspec
import pytest

from narthex.engines._base import LaunchFailed
from narthex.engines.ollama import notes
from narthex.engines.ollama.command import RunnerCommand
from narthex.engines.ollama.loading import OllamaLoader
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.served import ServedModel
from narthex.errors import EngineError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Load = Callable[..., OllamaLoader]
Start = Callable[..., FakeOllama]
# Answers the probes as the real one does and takes its time over a load, without a child of its own.
SLOW = (
    'case "$*" in *--version*|*--help*|*--list-devices*) ;; *) read -rt {seconds} <> <(:);; esac; '
    'exec {engine} "$@"'
)
LOAD = """
import sys
from pathlib import Path
from narthex.engines.ollama.discovery import engine_of, find_server
from narthex.engines.ollama.loading import OllamaLoader
from narthex.host.collect import collect_host
from narthex.knobs import KnobValues
server = find_server(sys.argv[1])
engine = engine_of(server, collect_host(), None)
loader = OllamaLoader(server, engine, "small", blob=None, log_dir=Path(sys.argv[2]))
loader.load(KnobValues(num_ctx=512, batch=512, ubatch=512), lambda stage, share: print(stage, flush=True))
"""


def quiet(stage: str, share: float | None) -> None:
    """A watch that tells no one."""


def runner(loader: OllamaLoader, model: str = "small") -> RunnerCommand:
    """What its process was really started with."""
    command = ServedModel(loader.server, model).command()
    assert command is not None
    return command


def listed(fake: FakeOllama) -> dict[str, Any]:
    return {model["name"]: model for model in call(fake.url, "/api/ps")["models"]}


def failure_of(loader: OllamaLoader, knobs: KnobValues) -> LaunchFailed:
    with pytest.raises(LaunchFailed) as caught:
        loader.load(knobs, quiet)
    return caught.value


@pytest.fixture
def slow_engine(tmp_path: Path, engine_binary: Path) -> Callable[[float], Path]:
    """A llama-server that sleeps before each load."""

    def make(seconds: float) -> Path:
        path = tmp_path / "bin" / "llama-server"
        path.parent.mkdir()
        path.write_text("#!/bin/bash\n" + SLOW.format(seconds=seconds, engine=engine_binary) + "\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def another(gemma: Path, tmp_path: Path) -> Path:
    """The same weights with another digest: to Ollama another model."""
    path = tmp_path / "another.gguf"
    shutil.copy(gemma, path)
    with path.open("ab") as file:
        file.write(b"\0")
    return path


def test_a_load_is_what_was_asked_and_says_so(fake: FakeOllama, loader: Load, knobs: KnobValues) -> None:
    stages: list[str] = []
    a_loader = loader(fake)
    with a_loader.load(knobs.with_(num_ctx=768), lambda stage, share: stages.append(stage)) as running:
        assert running.options == {"num_ctx": 768, "num_thread": 2}
        command = runner(a_loader)
        assert (command.num_ctx, command.threads, command.ubatch) == (768, 2, 512)
        report = running.report
        assert (report.num_ctx, report.ubatch, report.processor) == (768, 512, "100% CPU")
        assert report.buffers
        assert report.gaps == ()
        assert running.load_s > 0
        assert running.pid == fake.runner_pids()[0]
        assert running.log_path is not None
        assert "starting llama-server" in running.log_path.read_text()
        assert "buffer size" in running.log_path.read_text()
    assert set(stages) == {"loading"}  # there was nothing to unload
    assert listed(fake) == {}
    assert fake.runner_pids() == []


def test_what_is_loaded_goes_first_and_each_stage_is_told_when_it_happens(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    call(fake.url, "/api/generate", {"model": "small", "options": {"num_ctx": 256}})
    stages: list[str] = []
    with loader(fake).load(knobs, lambda stage, share: stages.append(stage)):
        pass
    assert list(dict.fromkeys(stages)) == ["unloading", "loading"]
    assert stages.count("loading") > 1  # all the while


def test_a_load_stays_for_an_hour_and_not_for_ever(fake: FakeOllama, loader: Load, knobs: KnobValues) -> None:
    with loader(fake).load(knobs, quiet):
        (model,) = call(fake.url, "/api/ps")["models"]
    assert model["expires_at"] < "2200"


def test_each_load_begins_without_the_model_so_no_old_layers_stay(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    call(fake.url, "/api/generate", {"model": "small-tuned", "options": {"num_gpu": 3}, "keep_alive": -1})
    a_loader = loader(fake)
    with a_loader.load(knobs, quiet):
        assert runner(a_loader).gpu_layers is None
        assert set(listed(fake)) == {"small:latest"}


def test_parameters_of_the_model_do_not_stand_in_for_ollamas_own_choice(
    fake: FakeOllama, loader: Load, gemma: Path, knobs: KnobValues
) -> None:
    fake.add_model("pinned", gemma, {"num_gpu": 3, "num_batch": 64, "num_thread": 1})
    a_loader = loader(fake, "pinned")
    with a_loader.load(knobs.with_(threads=None), quiet) as running:
        assert running.options == {"num_ctx": 512, "num_gpu": -1, "num_batch": 512, "num_thread": 0}
        command = runner(a_loader, "pinned")
        assert (command.gpu_layers, command.ubatch, command.threads) == (None, 512, None)


def test_given_layers_reach_the_runner(fake: FakeOllama, loader: Load, knobs: KnobValues) -> None:
    a_loader = loader(fake)
    with a_loader.load(knobs.with_(gpu_layers=0, batch=256, ubatch=256), quiet) as running:
        assert running.options["num_gpu"] == 0
        command = runner(a_loader)
        assert (command.gpu_layers, command.ubatch) == (0, 256)


def test_a_bare_load_sends_nothing_and_tells_what_differs(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    with loader(fake, "small-tuned", bare=True).load(knobs, quiet) as running:
        assert running.options == {}
        assert running.report.num_ctx == 1024
        gaps = " ".join(running.report.gaps)
    assert "512 tokens were asked for, Ollama loaded 1024" in gaps
    assert "Threads: 2 were asked for, the runner has 1." in gaps


def test_a_context_beyond_the_training_is_reported_as_what_it_became(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    with loader(fake).load(knobs.with_(num_ctx=40_000, batch=2048, ubatch=2048), quiet) as running:
        assert running.report.num_ctx == 32_768
        assert any("trained for 32768" in gap for gap in running.report.gaps)


def test_what_the_server_fixes_is_refused_before_anything_is_loaded(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    failed = failure_of(loader(fake), knobs.with_(kv_type="q8_0"))
    assert failed.failure.outcome is Outcome.UNSUPPORTED_SETTING
    assert "OLLAMA_KV_CACHE_TYPE" in failed.failure.line
    assert "starting llama-server" not in fake.log_path.read_text()


def test_an_unknown_model_is_its_own_outcome(fake: FakeOllama, loader: Load, knobs: KnobValues) -> None:
    failed = failure_of(loader(fake, "nosuch"), knobs)
    assert failed.failure.outcome is Outcome.MODEL_UNKNOWN


def test_an_ollama_without_a_list_of_loaded_models_is_refused(
    fake: FakeOllama, loader: Load, tmp_path: Path
) -> None:
    good = loader(fake)
    old = msgspec.structs.replace(good.server, version="0.1.30", era="A")
    with pytest.raises(EngineError, match=r"0\.1\.30"):
        OllamaLoader(old, good.engine, "small", blob=None, log_dir=tmp_path)


def test_a_real_lack_of_memory_is_named_with_the_engines_line(
    fake_ollama: Start, gemma: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma}, limit_mib=400)
    failed = failure_of(loader(fake), knobs)
    assert failed.failure.outcome is Outcome.OUT_OF_MEMORY
    assert failed.log_path is not None
    assert failed.log_path.exists()
    assert listed(fake) == {}


def test_a_runner_killed_while_it_loads_is_no_success(
    fake_ollama: Start, slow_engine: Callable[[float], Path], gemma: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma}, engine=slow_engine(30))

    def kill(stage: str, share: float | None) -> None:
        if stage == "loading":
            fake.kill_runner()

    with pytest.raises(LaunchFailed) as caught:
        loader(fake).load(knobs, kill)
    assert caught.value.failure.outcome in (Outcome.RUNNER_DIED, Outcome.KILLED_BY_KERNEL)
    assert "killed" in caught.value.failure.line


def test_ctrl_c_while_it_loads_ends_the_load(
    fake_ollama: Start, slow_engine: Callable[[float], Path], gemma: Path, tmp_path: Path
) -> None:
    fake = fake_ollama(models={"small": gemma}, engine=slow_engine(60))
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, fake.url, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "loading\n" or not fake.runner_pids():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert fake.runner_pids() == []
    assert listed(fake) == {}


def test_a_server_that_goes_away_is_waited_for_and_loads_again(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    a_loader = loader(fake)
    fake.kill()
    assert failure_of(a_loader, knobs).failure.outcome is Outcome.SERVER_DOWN
    stages: list[str] = []

    def watch(stage: str, share: float | None) -> None:
        stages.append(stage)
        if len(stages) == 2:
            fake.start()

    assert a_loader.came_back(watch)
    assert set(stages) == {"waiting for Ollama"}
    assert a_loader.server.pid == fake.pid
    with a_loader.load(knobs, quiet) as running:
        assert running.alive()
        assert running.report.buffers


def test_a_server_killed_in_the_middle_of_a_load_is_down(
    fake_ollama: Start, slow_engine: Callable[[float], Path], gemma: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma}, engine=slow_engine(30))

    def kill(stage: str, share: float | None) -> None:
        if stage == "loading" and fake.pid:
            os.kill(fake.pid, signal.SIGKILL)

    with pytest.raises(LaunchFailed) as caught:
        loader(fake).load(knobs, kill)
    assert caught.value.failure.outcome is Outcome.SERVER_DOWN


def test_another_version_that_comes_back_is_another_engine(fake: FakeOllama, loader: Load) -> None:
    a_loader = loader(fake)
    fake.kill()
    fake.version = "0.34.0"
    fake.start()
    stages: list[str] = []
    assert not a_loader.came_back(lambda stage, share: stages.append(stage))
    assert stages[-1] == "Ollama came back as version 0.34.0"


def test_other_settings_that_come_back_are_another_engine(fake: FakeOllama, loader: Load) -> None:
    a_loader = loader(fake)
    fake.kill()
    fake.env["OLLAMA_KV_CACHE_TYPE"] = "q8_0"
    fake.start()
    stages: list[str] = []
    assert not a_loader.came_back(lambda stage, share: stages.append(stage))
    assert "kv=q8_0" in stages[-1]


@pytest.mark.slow
def test_a_full_queue_is_waited_for(
    fake_ollama: Start, slow_engine: Callable[[float], Path], gemma: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma}, engine=slow_engine(1), env={"OLLAMA_MAX_QUEUE": "1"})
    a_loader, stages = loader(fake), list[str]()
    crowd = [
        threading.Thread(target=_try_once, args=(fake.url, {"model": "small", "options": {"num_ctx": size}}))
        for size in (256, 320, 384)
    ]

    def watch(stage: str, share: float | None) -> None:
        stages.append(stage)
        if stage == "loading" and stages.count(stage) == 1:
            for thread in crowd:
                thread.start()
            while "| 503 |" not in fake.log_path.read_text():  # one loads, one waits, one was refused
                time.sleep(0.02)

    with a_loader.load(knobs, watch) as running:
        assert running.report.num_ctx == 512
    for thread in crowd:
        thread.join()
    assert "waiting in Ollama's queue" in stages


def test_a_model_that_had_to_make_room_is_told(
    fake_ollama: Start, gemma: Path, another: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma, "other": another}, env={"OLLAMA_MAX_LOADED_MODELS": "1"})
    call(fake.url, "/api/generate", {"model": "other", "options": {"num_ctx": 256}})
    with loader(fake).load(knobs, quiet) as running:
        assert "Beside it: Ollama unloaded other:latest to make room." in running.report.gaps


def test_a_model_that_stays_beside_it_is_told(
    fake_ollama: Start, gemma: Path, another: Path, loader: Load, knobs: KnobValues
) -> None:
    fake = fake_ollama(models={"small": gemma, "other": another})
    call(fake.url, "/api/generate", {"model": "other", "options": {"num_ctx": 256}})
    with loader(fake).load(knobs, quiet) as running:
        assert any("other:latest is loaded too" in gap for gap in running.report.gaps)
    assert set(listed(fake)) == {"other:latest"}


def test_a_server_elsewhere_is_judged_by_its_answers_and_that_is_said(
    fake: FakeOllama, loader: Load, knobs: KnobValues, tmp_path: Path
) -> None:
    here = loader(fake)
    there = Server(url=fake.url, version=here.server.version, era="F", source="flag", place="elsewhere")
    far = OllamaLoader(there, here.engine, "small", blob=None, log_dir=tmp_path)
    with far.load(knobs, quiet) as running:
        assert running.pid is None
        assert running.cards_before is None
        assert running.log_path is None
        assert running.report.num_ctx == 512
        assert running.report.processor == "100% CPU"
        assert any(gap.startswith("Log: ") for gap in running.report.gaps)
        assert running.alive()


def test_what_narthex_loads_is_noted_where_a_slate_was_cleaned(
    fake: FakeOllama, loader: Load, knobs: KnobValues
) -> None:
    a_loader = loader(fake)
    notes.write_note(notes.Note(url=a_loader.server.url, pid=os.getpid(), at=time.time()))
    with a_loader.load(knobs, quiet):
        note = notes.read_note(a_loader.server.url)
        assert note is not None
        assert [(one.name, one.server) for one in note.ours] == [("small", fake.pid)]


def test_a_log_that_can_not_be_copied_is_a_gap(
    fake: FakeOllama, loader: Load, knobs: KnobValues, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("")
    with loader(fake, log_dir=tmp_path / "full").load(knobs, quiet) as running:
        assert any(gap.startswith("Log: its copy ") for gap in running.report.gaps)
        assert running.alive()
    assert running.stop().gentle


def test_two_loads_in_one_second_keep_both_logs(fake: FakeOllama, loader: Load, knobs: KnobValues) -> None:
    a_loader, paths = loader(fake), set()
    for _ in range(2):
        with a_loader.load(knobs, quiet) as running:
            paths.add(running.log_path)
    assert len(paths) == 2


def _try_once(url: str, body: dict[str, Any]) -> None:
    """A client that takes no for an answer: 503 where the queue is full."""
    with contextlib.suppress(HTTPError):
        call(url, "/api/generate", body)
