"""A clean slate, and everything put back: on a fake Ollama with a real llama-server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama import notes
from narthex.engines.ollama.activity import busy_models
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.discovery import find_server
from narthex.engines.ollama.log import is_start
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.restoring import TRIES
from narthex.engines.ollama.served import ServedModel
from narthex.engines.ollama.slate import Slate, clean_slate
from narthex.errors import EngineError
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call
from narthex.testing.residents import stays_forever

pytestmark = pytest.mark.engine
SMALL = {"num_ctx": 512, "num_thread": 1}
# A narthex that is in the middle of a study, for tests that kill it.
SWEEP = """
import sys, time
from narthex.engines.ollama.discovery import find_server
from narthex.engines.ollama.slate import Slate, clean_slate
with clean_slate(find_server(sys.argv[1]), say=lambda words: print(words, file=sys.stderr, flush=True)):
    print("swept", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def server(fake: FakeOllama) -> Server:
    """It, found."""
    return find_server(fake.url)


def load(fake: FakeOllama, model: str, keep_alive: Any = None, **options: Any) -> None:
    body: dict[str, Any] = {"model": model, "options": SMALL | options}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    call(fake.url, "/api/generate", body)


def listed(fake: FakeOllama) -> dict[str, Any]:
    return {model["name"]: model for model in call(fake.url, "/api/ps")["models"]}


@contextlib.contextmanager
def answering(
    fake: FakeOllama, model: str, tokens: int, *, lost: bool = False, clients: int = 1
) -> Iterator[list[threading.Thread]]:
    """Somebody's long answers, one after the other; entered once the model computes. ``lost``: they may be
    cut."""

    def client(seed: int) -> None:
        with contextlib.suppress(*((OSError, HTTPException) if lost else ())):
            call(fake.url, "/api/generate", {**body, "options": {**options, "seed": seed}})

    body = {"model": model, "prompt": "Once upon a time", "raw": True, "stream": False}
    options = {**SMALL, "num_predict": tokens, "temperature": 1.5}
    threads = [threading.Thread(target=client, args=[3 + one]) for one in range(clients)]
    load(fake, model)
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    while not busy_models([ServedModel(find_server(fake.url), f"{model}:latest")]):
        assert time.monotonic() < until
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join()


def sweep_in_a_process(fake: FakeOllama) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, fake.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "swept\n"
    return process


def test_an_empty_server_is_clean_and_stays_so(fake: FakeOllama, server: Server) -> None:
    said: list[str] = []
    with clean_slate(server, say=said.append) as slate:
        assert slate.formers == ()
    assert said[0] == "Ollama has no model loaded."
    assert not any("Put back" in words for words in said)
    assert notes.read_note(server.url) is None
    assert listed(fake) == {}


def test_a_resident_is_shown_unloaded_and_put_back_with_its_context_and_for_ever(
    fake: FakeOllama, server: Server
) -> None:
    load(fake, "small", -1, num_ctx=768)
    said: list[str] = []
    with clean_slate(server, say=said.append):
        assert listed(fake) == {}
        assert fake.runner_pids() == []
    assert "small:latest" in said[0]
    assert "context 768" in said[0]
    assert "for ever" in said[0]
    resident = listed(fake)["small:latest"]
    assert resident["context_length"] == 768
    assert resident["expires_at"] > "2200"
    command = ServedModel(server, "small").command()
    assert command is not None
    assert command.threads == 1
    assert notes.read_note(server.url) is None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.3.14", "0.9.6", "0.12.3"])
def test_older_ones_get_their_context_back_too(
    fake_ollama: Callable[..., FakeOllama], gemma: Path, version: str
) -> None:
    fake = fake_ollama(models={"small": gemma}, version=version, env={"OLLAMA_NUM_PARALLEL": "1"})
    load(fake, "small", -1, num_ctx=768)
    said: list[str] = []
    with clean_slate(find_server(fake.url), say=said.append):
        assert listed(fake) == {}
    assert "num_ctx 768" in said[-1]
    (pid,) = fake.runner_pids()
    assert "768" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert listed(fake)["small:latest"]["expires_at"] > "2200"


def test_what_a_plain_load_gives_is_put_back_by_a_plain_load(fake: FakeOllama, server: Server) -> None:
    call(fake.url, "/api/generate", {"model": "small-tuned", "keep_alive": "2h"})
    before = listed(fake)["small-tuned:latest"]
    said: list[str] = []
    with clean_slate(server, say=said.append):
        pass
    after = listed(fake)["small-tuned:latest"]
    assert after["context_length"] == before["context_length"] == 1024
    assert after["expires_at"][:10] >= before["expires_at"][:10]
    assert said[-1].startswith("Put back: small-tuned:latest (for ")  # no options


def test_what_narthex_loaded_meanwhile_goes_before_the_resident_comes_back(
    fake: FakeOllama, server: Server
) -> None:
    load(fake, "small")
    with clean_slate(server, say=print):
        notes.add_ours(server.url, "small-tuned", server.pid)
        load(fake, "small-tuned", 3600, num_ctx=2048)
    assert set(listed(fake)) == {"small:latest"}
    assert listed(fake)["small:latest"]["context_length"] == 512


def test_an_error_inside_still_puts_everything_back(fake: FakeOllama, server: Server) -> None:
    load(fake, "small")
    with pytest.raises(ZeroDivisionError), clean_slate(server, say=print):
        raise ZeroDivisionError
    assert "small:latest" in listed(fake)


def test_ctrl_c_puts_everything_back(fake: FakeOllama) -> None:
    load(fake, "small", -1)
    process = sweep_in_a_process(fake)
    assert listed(fake) == {}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert listed(fake)["small:latest"]["expires_at"] > "2200"


def test_the_next_run_puts_back_what_a_killed_one_left_and_lets_go_of_its_model(
    fake: FakeOllama, server: Server
) -> None:
    load(fake, "small", -1, num_ctx=768)
    process = sweep_in_a_process(fake)
    notes.add_ours(server.url, "small-tuned", server.pid)
    process.kill()
    process.communicate()
    load(fake, "small-tuned", 3600, num_ctx=2048)  # the killed one's trial
    said: list[str] = []
    with clean_slate(server, say=said.append):
        assert listed(fake) == {}
    assert any("left behind by an interrupted narthex" in words for words in said)
    assert any("loaded before an earlier run, and that run was interrupted" in words for words in said)
    assert set(listed(fake)) == {"small:latest"}
    assert listed(fake)["small:latest"]["context_length"] == 768
    assert notes.read_note(server.url) is None


def test_a_short_stay_that_is_over_since_a_killed_run_is_not_brought_back(
    fake: FakeOllama, server: Server
) -> None:
    former = notes.Former(name="small:latest", seconds_left=100)
    notes.write_note(notes.Note(url=server.url, pid=1, at=time.time() - 500, formers=(former,)))
    said: list[str] = []
    with clean_slate(server, say=said.append) as slate:
        assert slate.formers == ()
    assert "small:latest was loaded before an interrupted run; its time is over by now." in said
    assert listed(fake) == {}


@pytest.fixture
def breakable(fake: FakeOllama) -> Iterator[Callable[[bool], None]]:
    """Damages the file of «small», and repairs it."""
    blob = fake.blob("small", own=True)
    whole = blob.read_bytes()

    def damage(broken: bool) -> None:
        blob.write_bytes(whole[:100_000] if broken else whole)

    yield damage
    damage(False)


def test_what_can_not_be_put_back_is_tried_again_by_the_next_run(
    fake: FakeOllama, server: Server, breakable: Callable[[bool], None]
) -> None:
    load(fake, "small", -1, num_ctx=768)
    said: list[str] = []
    with clean_slate(server, say=said.append):
        notes.add_ours(server.url, "small-tuned", server.pid)
        breakable(True)
    assert listed(fake) == {}
    assert said[-1].startswith("small:latest could not be put back: ")
    assert said[-1].endswith('. The next run tries again; by hand: ollama run small:latest "".')
    note = notes.read_note(server.url)
    assert note is not None
    assert [(former.name, former.failed) for former in note.formers] == [("small:latest", 1)]
    assert note.ours == ()  # what the user loads next is theirs

    breakable(False)
    with clean_slate(server, say=said.append):
        pass
    assert any("an earlier run could not put it back" in words for words in said)
    assert listed(fake)["small:latest"]["context_length"] == 768
    assert stays_forever(listed(fake)["small:latest"])
    assert notes.read_note(server.url) is None


def test_after_three_runs_it_is_left_alone(
    fake: FakeOllama, server: Server, breakable: Callable[[bool], None]
) -> None:
    breakable(True)
    former = notes.Former(name="small:latest", forever=True, failed=TRIES - 1)
    notes.write_note(notes.Note(url=server.url, pid=1, at=time.time(), formers=(former,)))
    said: list[str] = []
    with clean_slate(server, say=said.append):
        pass
    assert said[-1].endswith(
        f'. That was time {TRIES}, so it is left alone; by hand: ollama run small:latest "".'
    )
    assert notes.read_note(server.url) is None


def test_ctrl_c_while_it_is_put_back_leaves_it_to_the_next_run(fake: FakeOllama, server: Server) -> None:
    load(fake, "small", -1, num_ctx=768)
    process = sweep_in_a_process(fake)
    process.send_signal(signal.SIGINT)
    while not (pids := fake.runner_pids()):
        assert process.poll() is None
    os.kill(pids[0], signal.SIGSTOP)  # the load hangs
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    fake.kill_runner()
    assert 'the next run puts back small:latest; by hand: ollama run small:latest ""' in said
    note = notes.read_note(server.url)
    assert note is not None
    assert [former.name for former in note.formers] == ["small:latest"]
    with clean_slate(server, say=print):
        pass
    assert listed(fake)["small:latest"]["context_length"] == 768


def test_a_sweep_that_was_refused_leaves_an_older_note_alone(fake: FakeOllama, server: Server) -> None:
    former = notes.Former(name="small-tuned:latest", forever=True)
    notes.write_note(notes.Note(url=server.url, pid=1, at=time.time(), formers=(former,)))
    with answering(fake, "small", 200, clients=2):
        slate = Slate(server, print, lambda question: False, None, ask_s=0)
        with pytest.raises(EngineError, match="nothing was unloaded"):
            slate.sweep()
        slate.put_back()
        assert list(listed(fake)) == ["small:latest"]
    note = notes.read_note(server.url)
    assert note is not None
    assert note.formers == (former,)


def test_a_second_narthex_is_refused_while_the_first_works(fake: FakeOllama, server: Server) -> None:
    process = sweep_in_a_process(fake)
    try:
        with pytest.raises(EngineError, match=str(process.pid)), clean_slate(server, say=print):
            pass
    finally:
        process.kill()
        process.communicate()


def test_an_answer_under_way_is_waited_for_and_not_cut(fake: FakeOllama, server: Server) -> None:
    said: list[str] = []
    with (
        answering(fake, "small", 200, clients=2) as answers,
        clean_slate(server, say=said.append),
    ):
        assert not any(answer.is_alive() for answer in answers)
    assert any("Answering somebody right now: small:latest" in words for words in said)
    assert "small:latest" in listed(fake)


def test_a_person_may_refuse_to_go_on_and_then_nothing_is_unloaded(fake: FakeOllama, server: Server) -> None:
    questions: list[str] = []

    def no(question: str) -> bool:
        questions.append(question)
        return False

    with answering(fake, "small", 200, clients=2):
        with pytest.raises(EngineError, match="nothing was unloaded"):
            Slate(server, print, no, None, ask_s=0).sweep()
        assert "small:latest" in listed(fake)
    assert "small:latest" in questions[0]
    assert notes.read_note(server.url) is None


class Restart:
    """A hand that restarts the fake."""

    words = "the fake"
    changed = False

    def __init__(self, fake: FakeOllama) -> None:
        self._fake = fake

    def restart(self) -> Server:
        self._fake.restart()
        return find_server(self._fake.url)

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        raise AssertionError(changes)

    def restore(self) -> Server:
        raise AssertionError


def test_a_model_that_does_not_go_is_told_or_ended_by_a_restart_that_was_allowed(
    fake: FakeOllama, server: Server
) -> None:
    said: list[str] = []
    with answering(fake, "small", 400, lost=True, clients=10):  # longer than all three sweeps
        for flag in ("", "--restart-container"):
            stuck = Slate(
                server, said.append, lambda question: True, None, flag=flag, ask_s=0, patience_s=0.5
            )
            with pytest.raises(EngineError, match=r"^small:latest can't be unloaded") as caught:
                stuck.sweep()
            assert (flag or "restart Ollama.") in caught.value.hint
            assert ("--restart-container" in caught.value.hint) == bool(flag)
        allowed = Slate(server, said.append, lambda question: True, Restart(fake), ask_s=0, patience_s=0.5)
        allowed.sweep()
        assert listed(fake) == {}
        assert allowed.server.pid == fake.pid
    assert any("restarting the fake" in words for words in said)
    allowed.put_back()
    assert "small:latest" in listed(fake)


@pytest.mark.parametrize("keep_alive", [-1, 7200, None])
def test_a_busy_model_that_was_told_to_go_stays_as_it_was(
    fake: FakeOllama, server: Server, keep_alive: int | None
) -> None:
    load(fake, "small", keep_alive)
    said: list[str] = []
    with answering(fake, "small", 250, clients=2):
        runners = fake.runner_pids()
        slate = Slate(server, said.append, lambda question: True, None, ask_s=0, patience_s=0.3)
        with pytest.raises(EngineError, match="can't be unloaded"):
            slate.sweep()
        slate.put_back()
    assert said[-1].startswith("small:latest was not unloaded, and stays for ")
    assert fake.runner_pids() == runners
    resident = listed(fake)["small:latest"]
    assert resident["context_length"] == 512
    assert stays_forever(resident) == (keep_alive == -1)
    assert notes.read_note(server.url) is None


def test_a_resident_with_another_context_is_put_back_by_one_load(fake: FakeOllama, server: Server) -> None:
    load(fake, "small", -1, num_ctx=768)
    log = open_log(server)
    assert log is not None
    with clean_slate(server, say=print):
        mark = log.mark()
    assert [is_start(line) for line in log.since(mark)].count(True) == 1
    assert listed(fake)["small:latest"]["context_length"] == 768


@pytest.mark.parametrize(
    ("age_s", "restarted", "keep_alive"), [(7300, False, 600), (10, True, 600), (10, False, -1)]
)
def test_the_users_own_load_of_a_model_that_narthex_once_loaded_is_put_back(
    fake: FakeOllama, server: Server, age_s: float, restarted: bool, keep_alive: int
) -> None:
    pid = 1 if restarted else server.pid
    ours = notes.Ours(name="small", at=time.time() - age_s, server=pid)
    notes.write_note(notes.Note(url=server.url, pid=1, at=time.time() - age_s, ours=(ours,)))
    load(fake, "small", keep_alive)
    said: list[str] = []
    with clean_slate(server, say=said.append):
        assert listed(fake) == {}
    assert not any("left behind" in words for words in said)
    assert "small:latest" in listed(fake)


class LeftBehind(Restart):
    """A hand that finds settings of a killed narthex."""

    changed = True

    def __init__(self, fake: FakeOllama) -> None:
        super().__init__(fake)
        self.held_by: list[int] = []

    def restore(self) -> Server:
        assert listed(self._fake) == {}  # nobody's model is cut
        holder = notes.holder(parse_host(self._fake.url), None)
        self.held_by += [holder.pid] if holder is not None else []
        self.changed = False
        return self.restart()


def test_settings_of_a_killed_narthex_go_inside_the_lock_after_everything_is_unloaded(
    fake: FakeOllama, server: Server
) -> None:
    load(fake, "small", -1)
    said: list[str] = []
    hand = LeftBehind(fake)
    with clean_slate(server, say=said.append, hand=hand) as slate:
        assert hand.held_by == [os.getpid()]
        assert slate.server.pid == fake.pid != server.pid
    assert any("left its own settings" in words for words in said)
    assert stays_forever(listed(fake)["small:latest"])


def test_settings_are_not_touched_while_another_narthex_works(fake: FakeOllama, server: Server) -> None:
    process = sweep_in_a_process(fake)
    hand = LeftBehind(fake)
    try:
        with pytest.raises(EngineError, match="Another narthex"), clean_slate(server, say=print, hand=hand):
            pass
        assert hand.changed
    finally:
        process.kill()
        process.communicate()


def test_an_idle_model_is_not_taken_for_a_busy_one(fake: FakeOllama, server: Server) -> None:
    load(fake, "small", 600)
    assert busy_models([ServedModel(server, "small:latest")]) == []
    assert busy_models([]) == []


def test_a_model_that_was_deleted_meanwhile_is_said(fake: FakeOllama, server: Server) -> None:
    load(fake, "small")
    said: list[str] = []
    with clean_slate(server, say=said.append):
        for manifest in fake.store.glob("manifests/*/*/small/latest"):
            manifest.unlink()
    assert "small:latest could not be put back: model 'small:latest' not found." in said
    assert notes.read_note(server.url) is None


def test_a_model_that_somebody_loaded_meanwhile_is_left_alone(fake: FakeOllama, server: Server) -> None:
    load(fake, "small", -1)
    said: list[str] = []
    with clean_slate(server, say=said.append):
        load(fake, "small", 600, num_ctx=1536)
    assert "small:latest is loaded already and is left as it is." in said
    assert listed(fake)["small:latest"]["context_length"] == 1536


@pytest.mark.slow
def test_a_server_that_is_away_at_the_end_leaves_the_note_for_the_next_run(
    fake: FakeOllama, server: Server
) -> None:
    load(fake, "small", -1)
    said: list[str] = []
    with clean_slate(server, say=said.append):
        fake.kill()
    assert any("the next run does it" in words for words in said)
    note = notes.read_note(server.url)
    assert note is not None
    assert [former.name for former in note.formers] == ["small:latest"]
    fake.start()
    with clean_slate(find_server(fake.url), say=print):
        pass
    assert "small:latest" in listed(fake)


def test_a_server_that_is_gone_is_told_in_one_sentence(fake: FakeOllama, server: Server) -> None:
    fake.kill()
    with pytest.raises(EngineError, match="can't be reached"), clean_slate(server, say=print):
        pass


def test_a_killed_runner_that_is_still_listed_is_unloaded(fake: FakeOllama, server: Server) -> None:
    load(fake, "small", -1)
    os.kill(fake.runner_pids()[0], signal.SIGKILL)
    assert "small:latest" in listed(fake)
    with clean_slate(server, say=print):
        assert listed(fake) == {}
