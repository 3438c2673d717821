"""A model that an Ollama has loaded for us: alive, disturbed, failed, unloaded."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.engines._base import Failure
from narthex.engines.ollama.loading import OllamaLoader
from narthex.engines.ollama.running import RunningOllama
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Load = Callable[..., OllamaLoader]


def quiet(stage: str, share: float | None) -> None:
    """A watch that tells no one."""


@pytest.fixture
def running(fake: FakeOllama, loader: Load, knobs: KnobValues) -> Iterator[RunningOllama]:
    """The model, loaded."""
    with loader(fake).load(knobs, quiet) as engine:
        yield engine


def ask(fake: FakeOllama, model: str = "small", **options: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": "The sky is", "raw": True, "stream": False}
    given = {"num_ctx": 512, "num_thread": 2, "num_predict": 4, **options}
    return call(fake.url, "/api/generate", body | {"options": given})


def outcome(failure: Failure | None) -> Outcome:
    assert failure is not None
    return failure.outcome


def test_it_answers_with_its_options_and_is_not_loaded_anew(fake: FakeOllama, running: RunningOllama) -> None:
    pid = running.pid
    body = {"model": running.served_as, "prompt": "The sky is", "raw": True, "stream": False}
    answer = call(fake.url, "/api/generate", body | {"options": {**running.options, "num_predict": 4}})
    assert answer["eval_count"] == 4
    assert running.pid == pid
    assert running.alive()
    assert running.failure() is None
    assert running.disturbed() is None
    assert running.wire == "ollama"


def test_a_client_that_reloads_it_with_other_options_is_a_doubt_and_no_death(
    fake: FakeOllama, running: RunningOllama
) -> None:
    pid = running.pid
    ask(fake, num_ctx=1024)
    doubt = running.disturbed()
    assert doubt is not None
    assert "num_ctx 1024" in doubt
    assert running.alive()
    assert running.failure() is None
    assert running.pid not in (None, pid)


@pytest.mark.slow
def test_the_same_is_seen_where_no_log_can_be_read(
    fake: FakeOllama, loader: Load, knobs: KnobValues, tmp_path: Path
) -> None:
    near = loader(fake)
    for changes in ({"log": ""}, {"log": "", "place": "elsewhere", "pid": None}):
        server = msgspec.structs.replace(near.server, **changes)
        blind = OllamaLoader(server, near.engine, "small", blob=None, log_dir=tmp_path)
        with blind.load(knobs, quiet) as engine:
            assert engine.disturbed() is None
            ask(fake, "small-tuned", num_ctx=1024)
            doubt = engine.disturbed()
        assert doubt is not None
        assert "small" in doubt


def test_another_model_loaded_meanwhile_is_a_doubt(
    fake: FakeOllama, running: RunningOllama, gemma: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    shutil.copy(gemma, other)
    with other.open("ab") as file:
        file.write(b"\0")
    fake.add_model("other", other)
    ask(fake, "other", num_ctx=256)
    assert running.disturbed() == "another model was loaded in the meantime"


def test_a_killed_runner_is_dead_although_ollama_still_lists_it(
    fake: FakeOllama, running: RunningOllama
) -> None:
    os.kill(fake.runner_pids()[0], signal.SIGKILL)
    while running.alive():
        pass
    assert [model["name"] for model in call(fake.url, "/api/ps")["models"]] == ["small:latest"]
    assert outcome(running.failure()) in (Outcome.RUNNER_DIED, Outcome.KILLED_BY_KERNEL)


def test_a_killed_server_is_down(fake: FakeOllama, running: RunningOllama) -> None:
    fake.kill()
    assert not running.alive()
    assert outcome(running.failure()) is Outcome.SERVER_DOWN
    failure = running.explain(Outcome.REQUEST_FAILED, "the connection ended early", lost=True)
    assert failure.outcome is Outcome.SERVER_DOWN
    assert "connection ended early" in failure.line


def test_a_server_that_was_started_anew_meanwhile_was_down(fake: FakeOllama, running: RunningOllama) -> None:
    fake.kill()
    fake.start()
    assert not running.alive()
    failure = running.explain(Outcome.REQUEST_FAILED, "the connection ended early", lost=True)
    assert failure.outcome is Outcome.SERVER_DOWN


def test_a_refused_request_keeps_the_words_the_client_saw(running: RunningOllama) -> None:
    words = "something that no table knows"
    assert running.explain(Outcome.REQUEST_FAILED, words, lost=False) == Failure(
        outcome=Outcome.REQUEST_FAILED, line=words
    )
    late = running.explain(Outcome.TIMEOUT, "no answer within 3 s", lost=False)
    assert late.outcome is Outcome.TIMEOUT


def test_stopping_unloads_it_once_and_tells_no_failure(fake: FakeOllama, running: RunningOllama) -> None:
    report = running.stop()
    assert report.gentle
    assert report.exit_code is None
    assert report.vram_back is None  # this model lies in main memory
    assert fake.runner_pids() == []
    assert call(fake.url, "/api/ps") == {"models": []}
    assert running.stop() is report
    assert running.failure() is None
    assert running.disturbed() is None


def test_stopping_after_the_server_went_away_is_no_error(fake: FakeOllama, running: RunningOllama) -> None:
    fake.kill()
    assert not running.stop().gentle


def test_the_copy_of_the_log_holds_what_came_after_the_load(fake: FakeOllama, running: RunningOllama) -> None:
    ask(fake)
    tail = running.tail(200)
    running.stop()
    assert running.log_path is not None
    copied = running.log_path.read_text()
    assert any("/api/generate" in line for line in tail)
    assert "starting llama-server" in copied
    assert copied.count("/api/generate") >= 2
