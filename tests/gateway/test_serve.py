"""`narthex serve` as a process: how it begins, what it is told while it runs, and the Ollama behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from narthex.testing.fake_ollama import FakeOllama

from .serving import Serving, chat, free_port, until

pytestmark = pytest.mark.engine

MODEL = "small"
ROLES = '[roles]\nfast = "small"\n'


@pytest.fixture(scope="module")
def behind(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    """An Ollama with one model of 2,048 tokens."""
    fake = FakeOllama(tmp_path_factory.mktemp("behind") / "models", engine=engine_binary)
    fake.add_model(MODEL, gemma, {"num_ctx": 2048})
    with fake:
        yield fake


@pytest.fixture(scope="module")
def serving(behind: FakeOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway before it."""
    folder = tmp_path_factory.mktemp("serving")
    with Serving(folder, "--ollama", behind.url, policy=ROLES) as found:
        yield found


@pytest.fixture
def alone(engine_binary: Path, gemma: Path, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Gateways of one's own, not started yet: ``alone(*words, policy="…")``."""
    made: list[Serving] = []

    def make(*words: str, policy: str = "", **more: Any) -> Serving:
        made.append(Serving(tmp_path / f"own-{len(made)}", *words, policy=policy, **more))
        return made[-1]

    yield make
    for found in made:
        found.__exit__(None, None, None)


# the official clients, before an Ollama


def test_ollamas_own_client_talks_with_an_ollama(serving: Serving) -> None:
    client = ollama.Client(host=serving.url)
    options = {"num_predict": 4}
    messages = [{"role": "user", "content": "Hello."}]
    assert client.chat("fast", messages, options=options).message.content
    streamed = list(client.chat(MODEL, messages, options=options, stream=True))
    assert streamed[-1].done
    assert client.generate("fast", "Hello", options=options).response
    with pytest.raises(ollama.ResponseError, match="does not support embeddings"):
        client.embed(MODEL, ["one", "two"])
    assert {"fast", "small"} <= {(row.model or "").removesuffix(":latest") for row in client.list().models}
    assert client.show("fast").modelinfo
    assert [row.name for row in client.ps().models]
    with pytest.raises(ollama.ResponseError, match="nobody") as caught:
        client.chat("nobody", messages)
    assert caught.value.status_code == 404


def test_openais_own_client_talks_with_an_ollama(serving: Serving) -> None:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello."}]
        assert client.chat.completions.create(model="fast", messages=messages, max_tokens=4).choices[0]
        pieces = client.chat.completions.create(model="fast", messages=messages, max_tokens=4, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert client.completions.create(model=MODEL, prompt="Hello", max_tokens=4).choices[0].text
        assert "fast" in {row.id for row in client.models.list()}
        assert client.models.retrieve("fast").id == "fast"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nobody", messages=messages)


def test_other_options_of_a_load_cause_none_in_an_ollama(serving: Serving, behind: FakeOllama) -> None:
    serving.post("/api/chat", chat("fast"))
    loads, runners = serving.loads(MODEL + ":latest"), behind.runner_pids()
    for options, stay in (({"num_ctx": 512}, "5m"), ({"num_batch": 64, "num_gpu": 0}, 30), ({}, "1h")):
        answer = serving.post("/api/chat", chat(MODEL, options=options, keep_alive=stay))
        assert answer.status == 200, answer.body
    assert serving.loads(MODEL + ":latest") == loads
    assert behind.runner_pids() == runners


def test_a_runner_that_is_killed_in_mid_stream_ends_it_in_words(serving: Serving, behind: FakeOllama) -> None:
    with serving.stream("/api/chat", chat(MODEL, tokens=1500, stream=True, text="Count.")) as answer:
        assert answer.readline()
        assert behind.kill_runner() == 1
        lines = answer.read().splitlines()
    assert b"[narthex: " in lines[-1], lines[-2:]
    assert json.loads(lines[-1])["done"] is True
    assert serving.post("/api/chat", chat(MODEL)).status == 200


def test_lists_answer_while_ollama_is_stopped(serving: Serving, behind: FakeOllama) -> None:
    known = serving.get("/api/tags")
    os.kill(behind.pid, signal.SIGSTOP)
    try:
        for path in ("/api/tags", "/api/ps", "/v1/models", "/api/version", "/healthz", "/metrics"):
            assert serving.ask("GET", path).status == 200
        assert serving.get("/api/tags") == known
        assert Path(f"/proc/{behind.pid}/stat").read_text().split()[2] == "T", "it stands still all the time"
    finally:
        os.kill(behind.pid, signal.SIGCONT)
    until(lambda: serving.post("/api/chat", chat(MODEL)).status == 200)


# the policy, while it runs


def test_a_role_that_is_added_is_there_at_once_and_a_stream_goes_on(serving: Serving) -> None:
    serving.post("/api/chat", chat("fast"))
    with serving.stream("/api/chat", chat("fast", tokens=60, stream=True, text="Count.")) as answer:
        first = answer.readline()
        serving.config.write_text(f'{ROLES}new = "small"\n')
        assert serving.post("/narthex/reload", {}).json == {"reloaded": True}
        found = serving.post("/api/chat", chat("new"))
        assert found.status == 200, found.body
        assert found.headers["X-Narthex-Role"] == "new"
        lines = [first, *answer.read().splitlines()]
    assert json.loads(lines[-1])["done_reason"] in {"length", "stop"}
    serving.config.write_text(ROLES)
    assert serving.process is not None
    serving.process.send_signal(signal.SIGHUP)
    until(lambda: serving.post("/api/chat", chat("new")).status == 404, "SIGHUP takes it away")
    until(lambda: serving.events("reload"))


def test_a_policy_that_makes_no_sense_changes_nothing_and_is_told(serving: Serving) -> None:
    serving.config.write_text('[gateway]\nqueue = "many"\n')
    refused = serving.post("/narthex/reload", {})
    assert refused.status == 400
    assert refused.cause == "bad_policy"
    assert b"queue" in refused.body
    lines = len(serving.events("reload"))
    assert serving.process is not None
    serving.process.send_signal(signal.SIGHUP)
    told = until(lambda: serving.events("reload")[lines:])
    assert "queue" in told[0]
    assert "stays as it was" in told[0]
    serving.config.write_text(ROLES)
    assert serving.post("/api/chat", chat("fast")).status == 200


# beginnings


def _refused(serving: Serving, *words: str) -> str:
    """What it says when it can't begin; that is a usage error, without a traceback."""
    serving.launch(*words)
    assert serving.process is not None
    status = serving.process.wait(60)
    said = serving.log()
    assert status == 2, said
    assert "Traceback" not in said
    return said


def test_a_port_that_is_taken_is_told(alone: Callable[..., Serving]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        said = _refused(alone(), "--listen", place, "--no-ollama")
    assert place in said
    assert "--listen" in said


@pytest.mark.parametrize("place", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", ":80", "127.0.0.1:http"])
def test_a_place_that_makes_no_sense_is_told(alone: Callable[..., Serving], place: str) -> None:
    assert place in _refused(alone(), "--listen", place, "--no-ollama")


def test_others_than_this_machine_need_a_key(alone: Callable[..., Serving]) -> None:
    assert "key" in _refused(alone(), "--listen", f"0.0.0.0:{free_port()}", "--no-ollama")


def test_a_policy_that_is_not_there_is_told(alone: Callable[..., Serving]) -> None:
    assert "gone.toml" in _refused(alone(), "--config", "gone.toml", "--no-ollama")


def test_an_ollama_that_comes_later_is_picked_up(
    alone: Callable[..., Serving], engine_binary: Path, gemma: Path, tmp_path: Path
) -> None:
    fake = FakeOllama(tmp_path / "models", engine=engine_binary)
    fake.add_model(MODEL, gemma, {"num_ctx": 512})
    serving = alone("--ollama", fake.url, policy=ROLES).start()
    ready = serving.ask("GET", "/readyz")
    assert ready.status == 503
    assert fake.url in " ".join(ready.json["problems"])
    refused = serving.post("/api/chat", chat("fast"))
    assert (refused.status, refused.cause) == (503, "ollama_unreachable")
    with fake:
        until(lambda: serving.ask("GET", "/readyz").status == 200, "it is picked up")
        (row,) = [row for row in serving.get("/readyz")["backends"] if row["name"] == "ollama"]
        assert row["url"] == fake.url
        answer = serving.post("/api/chat", chat("fast"))
        assert answer.status == 200, answer.body
        assert serving.get("/api/ps")["models"]
    until(lambda: serving.ask("GET", "/readyz").status == 503, "it is missed")
    assert serving.ask("GET", "/api/tags").status == 200


def test_a_state_folder_that_cannot_be_written_is_said_and_refuses_nobody(
    alone: Callable[..., Serving], engine_binary: Path, gemma: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    policy = f'[roles]\nfast = "{gemma}"\n'
    words = ("--no-ollama", "--engine-path", str(engine_binary))
    serving = alone(*words, policy=policy, env={"NARTHEX_STATE": str(nowhere)}).start()
    assert serving.post("/api/chat", chat("fast")).status == 200
    until(lambda: str(nowhere) in serving.log(), "it says what can't be written")
