"""The whole gateway before real llama-servers that it starts itself, on a card that holds one model."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from narthex.gateway.causes import MEMORY
from narthex.host.processes import runs

from .serving import Serving, chat, until

pytestmark = pytest.mark.engine


def long_chat(model: str, tokens: int = -1) -> Any:
    """An answer that goes on for so many tokens, or until the context is full."""
    return chat(model, tokens=tokens, stream=True, text="Count.", options={"ignore_eos": True})


def let_all_go(serving: Serving) -> None:
    for model in serving.residents():
        serving.post("/narthex/release", {"model": model})
    until(lambda: not serving.residents(), "nothing is loaded")


def test_two_models_take_turns_on_a_card_that_holds_one(serving: Serving) -> None:
    let_all_go(serving)
    before = {model: serving.loads(model) for model in ("first", "second")}
    seen: set[int] = set()
    for model in ("first", "second", "first"):
        answer = serving.post("/api/chat", chat(model))
        assert answer.status == 200, answer.body
        assert answer.headers["X-Narthex-Model"] == model
        assert answer.headers["X-Narthex-Role"] == model
        assert answer.json["message"]["content"]
        assert serving.residents() == {model: "ready"}
        (pid,) = serving.engines()
        assert pid not in seen
        assert not any(runs(old) for old in seen), "the other one is gone before"
        seen.add(pid)
    again = serving.post("/v1/chat/completions", chat("first", max_tokens=4))
    assert again.json["choices"][0]["message"]["content"]
    assert serving.loads("first") - before["first"] == 2
    assert serving.loads("second") - before["second"] == 1


def test_what_runs_out_of_memory_tells_its_cause_and_is_not_tried_again(serving: Serving) -> None:
    failures = serving.metric("narthex_load_failures_total", model="huge")
    first = serving.post("/api/chat", chat("huge"))
    if failures == 0:
        assert serving.metric("narthex_load_failures_total", model="huge") == 1
    failures = serving.metric("narthex_load_failures_total", model="huge")
    second = serving.post("/v1/chat/completions", chat("huge"))
    for answer in (first, second):
        assert answer.status == 503
        assert answer.cause in MEMORY
        assert b"ctx 32768" in answer.body
    assert first.json["narthex"]["figures"]["num_ctx"] == 32768
    assert second.json["error"]["code"] == first.cause
    assert serving.metric("narthex_load_failures_total", model="huge") == failures, "it was remembered"


def test_a_role_answers_from_its_fallback_and_says_so(serving: Serving) -> None:
    answer = serving.post("/api/chat", chat("safe"))
    assert answer.status == 200, answer.body
    assert answer.headers["X-Narthex-Model"] == "first"
    assert answer.headers["X-Narthex-Role"] == "safe"
    assert "huge" in answer.headers["X-Narthex-Instead"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_engine_that_is_killed_in_mid_stream_ends_it_in_words_and_is_loaded_again(
    serving: Serving, path: str
) -> None:
    serving.post("/api/chat", chat("first"))
    loads = serving.loads("first")
    with serving.stream(path, long_chat("first")) as answer:
        lines = [answer.readline(), answer.readline()]
        assert lines[0]
        (pid,) = serving.engines()
        os.kill(pid, signal.SIGKILL)
        lines += answer.read().splitlines()
    told = [line for line in lines if b"[narthex: runner_died]" in line]
    assert told, lines[-3:]
    if path == "/api/chat":
        last = json.loads(lines[-1])
        assert last["done"] is True
    else:
        assert lines[-1] == b"" or lines[-1].startswith(b"data:")
        assert all(not line or line.startswith(b"data:") for line in (each.strip() for each in lines))
    assert serving.post("/api/chat", chat("first")).status == 200, "the very next one"
    assert serving.loads("first") == loads + 1
    until(lambda: "runner_died" in serving.causes())


def test_an_engine_that_died_in_peace_is_not_noticed(serving: Serving) -> None:
    serving.post("/api/chat", chat("first"))
    (pid,) = serving.engines()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not runs(pid))
    assert serving.post("/api/chat", chat("first")).status == 200


def test_a_client_that_leaves_while_it_loads_ends_no_load_and_the_next_joins_it(serving: Serving) -> None:
    let_all_go(serving)
    loads = serving.loads("first")
    client = serving.leave("/api/chat", chat("first"))
    until(lambda: serving.residents().get("first") == "loading")
    client.close()
    assert serving.post("/api/chat", chat("first")).status == 200
    assert serving.loads("first") == loads + 1
    until(lambda: "client_left" in serving.causes())


def test_a_client_that_leaves_in_mid_stream_ends_the_generation(serving: Serving) -> None:
    serving.post("/api/chat", chat("first"))
    with serving.stream("/api/chat", long_chat("first")) as answer:
        assert answer.readline()
        assert serving.get("/narthex/state")["holdings"][0]["running"] == 1
    until(lambda: serving.get("/narthex/state")["holdings"][0]["running"] == 0, "its slot is free")


def test_what_follows_a_stream_at_once_is_answered(serving: Serving) -> None:
    body = {"model": "first", "prompt": "Hello", "max_tokens": 2}
    for _ in range(5):
        assert serving.post("/v1/completions", body | {"stream": True}).status == 200
        answer = serving.post("/v1/completions", body)
        assert answer.status == 200, answer.body


def test_lists_answer_while_a_model_loads(serving: Serving) -> None:
    let_all_go(serving)
    asked = threading.Thread(target=serving.post, args=("/api/chat", chat("first")))
    asked.start()
    until(lambda: serving.residents().get("first") == "loading")
    order = [serving.ask("GET", path).status for path in ("/api/tags", "/api/ps", "/v1/models", "/readyz")]
    still = serving.residents()
    asked.join()
    assert order == [200] * 4
    assert still == {"first": "loading"}, "all four came before the load was done"


def test_other_options_of_a_load_cause_none(serving: Serving) -> None:
    serving.post("/api/chat", chat("first"))
    loads = serving.loads("first")
    for options, stay in (
        ({"num_ctx": 512}, "5m"),
        ({"num_batch": 64, "num_gpu": 0}, 30),
        ({"use_mmap": False}, "1h"),
    ):
        answer = serving.post("/api/chat", chat("first", options=options, keep_alive=stay))
        assert answer.status == 200, answer.body
    assert serving.loads("first") == loads


def test_more_context_than_there_is_is_refused_with_both_numbers(serving: Serving) -> None:
    answer = serving.post("/api/chat", chat("first", options={"num_ctx": 4096}))
    assert answer.status == 400
    assert answer.cause == "context_too_large"
    assert b"4,096" in answer.body
    assert b"1,024" in answer.body


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(serving: Serving, path: str) -> None:
    answer = serving.post(path, chat("first", text="one two three " * 900))
    assert answer.status == 400, answer.body
    assert answer.cause == "context_too_large"
    assert b"2724 tokens" in answer.body
    assert b"1024" in answer.body


def test_a_pin_is_refused_and_zero_lets_it_go(serving: Serving) -> None:
    pinned = serving.post("/api/chat", chat("first", keep_alive=-1))
    assert pinned.status == 400
    assert pinned.cause == "pin_refused"
    assert serving.post("/api/generate", {"model": "first"}).json["done_reason"] == "load"
    assert serving.residents() == {"first": "ready"}
    gone = serving.post("/api/generate", {"model": "first", "keep_alive": 0})
    assert gone.json["done_reason"] == "unload"
    until(lambda: not serving.residents(), "it is unloaded")


def test_ollamas_own_client_talks_with_a_llama_server(serving: Serving) -> None:
    client = ollama.Client(host=serving.url)
    options = {"num_predict": 4}
    messages = [{"role": "user", "content": "Hello."}]
    assert client.chat("first", messages, options=options).message.content
    streamed = list(client.chat("first", messages, options=options, stream=True))
    assert streamed[-1].done
    assert streamed[-1].eval_count == 4
    assert client.generate("first", "Hello", options=options).response
    assert "first" in {(row.model or "").removesuffix(":latest") for row in client.list().models}
    assert [row.name for row in client.ps().models]
    assert client.show("first").modelinfo
    with pytest.raises(ollama.ResponseError, match=f"narthex: ({'|'.join(MEMORY)})") as caught:
        client.chat("huge", messages)
    assert caught.value.status_code == 503


def test_openais_own_client_talks_with_a_llama_server(serving: Serving) -> None:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello."}]
        whole = client.chat.completions.create(model="first", messages=messages, max_tokens=4)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        pieces = client.chat.completions.create(model="first", messages=messages, max_tokens=4, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert client.completions.create(model="first", prompt="Hello", max_tokens=4).choices[0].text
        assert "first" in {row.id for row in client.models.list()}
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="huge", messages=messages)
        assert caught.value.code in MEMORY


# with gateways of their own


Begin = Callable[[str], Serving]


@pytest.fixture
def begin(pair: Path, engine_binary: Path, tmp_path: Path) -> Any:
    """Starts a gateway of one's own, with one model: ``begin(more lines of its policy)``."""
    started: list[Serving] = []

    def start(policy: str = "") -> Serving:
        words = f'[models.first]\nnum_ctx = 1024\n[roles]\nfirst = "{pair}/first.gguf"\n{policy}'
        engine = ("--no-ollama", "--engine-path", str(engine_binary))
        started.append(Serving(tmp_path / f"own-{len(started)}", *engine, policy=words))
        return started[-1].start()

    yield start
    for found in started:
        found.__exit__(None, None, None)


def test_an_answer_comes_to_its_end_when_narthex_is_asked_to_end(begin: Begin) -> None:
    serving = begin("")
    serving.post("/api/chat", chat("first"))
    (pid,) = serving.engines()
    with serving.stream("/api/chat", long_chat("first", 100)) as answer:
        assert answer.readline()
        assert serving.process is not None
        serving.process.send_signal(signal.SIGTERM)
        lines = answer.read().splitlines()
    last = json.loads(lines[-1])
    assert last["done_reason"] == "length"
    assert last["eval_count"] == 100
    assert serving.process.wait(60) == 0
    assert not runs(pid)


def test_who_is_still_answered_when_patience_ends_hears_it(begin: Begin) -> None:
    serving = begin('[gateway]\ndrain = "0s"')
    serving.post("/api/chat", chat("first"))
    engines = serving.engines()
    with serving.stream("/api/chat", long_chat("first")) as answer:
        assert answer.readline()
        assert serving.end() == 0
        lines = answer.read().splitlines()
    assert b"[narthex: " in lines[-1] + lines[-2]
    assert not any(runs(pid) for pid in engines)


def test_no_engine_outlives_a_gateway_that_was_killed(begin: Begin) -> None:
    serving = begin("")
    serving.post("/api/chat", chat("first"))
    engines = serving.engines()
    assert engines
    serving.end(signal.SIGKILL)
    until(lambda: not any(runs(pid) for pid in engines), "the engines end, too")
