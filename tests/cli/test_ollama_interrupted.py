"""What comes between: Ctrl-C, SIGKILL, a server that goes down, a runner that dies. Nothing counts twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.testing.command_line import Running, Said, narthex
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.residents import FOREVER, listed, load, stays_forever, unload

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]
Start = Callable[..., FakeOllama]
TURN = ("--depth", "32", "--prompt-tokens", "16", "--generate", "8")
SMALL = ("--demo", "--ctx", "512", "--max-loads", "3", "--soak", "0", "--plain", *TURN)


def words(fake: FakeOllama, *more: str) -> tuple[str, ...]:
    return ("tune", "small-set", "--ollama", fake.url, *SMALL, *more)


def journaled() -> Counter[tuple[str, int]]:
    """Purpose and context of every trial in the journal, and how often it is there."""
    with Journal.open() as journal:
        (study,) = journal.studies()
        return Counter(
            (record.trial.purpose, record.trial.knobs.num_ctx) for record in journal.trials(study.id)
        )


def finished() -> bool:
    with Journal.open() as journal:
        (study,) = journal.studies()
        return study.finished


def kinds(answer: dict[str, Any]) -> set[str]:
    return {row["kind"] for row in answer["decisions"]}


def whole(said: Said, fake: FakeOllama) -> None:
    """The study went on to its end, and every trial is there once."""
    assert said.code == 0, said.err
    counted = Counter((row["purpose"], row["knobs"]["num_ctx"]) for row in said.data["trials"])
    assert counted == journaled()
    assert all(count == 1 for (purpose, _), count in counted.items() if purpose.startswith("baseline"))
    assert {row["name"] for row in said.data["baselines"]} == {"current", "engine", "house"}
    assert finished()


@pytest.fixture
def resident(served: FakeOllama) -> Any:
    """The shared server with a model that the user keeps loaded for ever."""
    load(served, "small", FOREVER, num_ctx=768)
    yield served
    unload(served)


def is_back(fake: FakeOllama) -> bool:
    (name, row), *others = listed(fake).items()
    return name == "small:latest" and row["context_length"] == 768 and stays_forever(row) and not others


def test_ctrl_c_puts_everything_back_and_the_same_command_goes_on(resident: FakeOllama) -> None:
    with Running(*words(resident)) as running:
        running.until("warm-up", 2)
        assert "small-set:latest" in listed(resident)
        said = running.interrupt()
    assert said.code == ExitCode.INTERRUPTED, said.err
    assert is_back(resident)
    assert not finished()
    assert sum(journaled().values()) == 1  # the trial in flight is not kept
    whole(narthex(*words(resident, "--json")), resident)
    assert is_back(resident)


def test_after_a_kill_the_next_run_goes_on_and_puts_back_what_was_there_before(
    resident: FakeOllama,
) -> None:
    with Running(*words(resident)) as running:
        running.until("warm-up", 2)
        running.kill()
    assert "small:latest" not in listed(resident)
    said = narthex(*words(resident, "--json"))
    assert "small-set:latest was left behind by an interrupted narthex" in said.err
    assert "that run was interrupted" in said.err
    assert "resume" in kinds(said.data)
    whole(said, resident)
    assert is_back(resident)


def test_another_narthex_has_to_wait_its_turn(resident: FakeOllama) -> None:
    with Running(*words(resident)) as running:
        running.until("warm-up")
        said = narthex("trial", "small", "--ollama", resident.url)
        assert said.code == ExitCode.NO_ENGINE
        assert "Another narthex is already working with the Ollama" in said.err
        assert running.interrupt().code == ExitCode.INTERRUPTED


class TestTheServer:
    @pytest.fixture
    def fake(self, fake_ollama: Start, gemma: Path) -> FakeOllama:
        fake = fake_ollama(models={"small": gemma})
        fake.add_model("small-set", gemma, {"num_ctx": 512, "num_thread": 1})
        return fake

    def test_it_dies_and_is_started_again_while_the_study_waits(self, fake: FakeOllama) -> None:
        with Running(*words(fake, "--json")) as running:
            running.until("warm-up", 2)
            fake.kill()
            running.until("waiting for Ollama")
            fake.start()
            said = running.end()
        whole(said, fake)
        assert "the server went down once under way" in said.out
        assert listed(fake) == {}

    def test_it_stays_down_and_a_later_run_goes_on(
        self, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NARTHEX_OLLAMA_WAIT", "1s")
        load(fake, "small", FOREVER, num_ctx=768)
        with Running(*words(fake)) as running:
            running.until("warm-up", 2)
            fake.kill()
            said = running.end()
        assert said.code == ExitCode.NO_ENGINE
        assert "The server went down in the middle of the study" in said.err
        assert "run the same command again" in said.err
        assert "small:latest could not be put back; the next run does it" in said.err
        assert sum(journaled().values()) == 1
        assert not finished()
        fake.start()
        whole(narthex(*words(fake, "--json")), fake)
        assert is_back(fake)

    def test_its_runner_dies_and_the_study_goes_on(self, fake: FakeOllama) -> None:
        long = ("--prompt-tokens", "64", "--generate", "128")
        with Running(*words(fake, "--json", *long)) as running:
            running.until("decode")
            assert fake.kill_runner() == 1
            said = running.end()
        whole(said, fake)
        first, *others = said.data["trials"]
        assert (first["purpose"], first["outcome"]) == ("baseline:current", "runner_died")
        assert {row["outcome"] for row in others} == {"done"}
        assert said.data["profile"] is not None
