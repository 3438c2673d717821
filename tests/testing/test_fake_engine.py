"""The quick fake engine is taken for a real one: probed, started, read, refused, and found as an Ollama."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.engines._base import Engine, LaunchFailed
from narthex.engines.llama_launch import launch
from narthex.engines.llama_running import LlamaServer
from narthex.engines.llama_server import find_engine
from narthex.engines.ollama import processes
from narthex.engines.ollama.discovery import find_server
from narthex.host.processes import runs
from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.outcomes import Outcome
from narthex.testing.engine.card import Card
from narthex.testing.fake_engine import QuickOllama, Scenery
from narthex.units import GIB, MIB

PATIENCE_S = 20.0
MODELS: dict[str, dict[str, Any]] = {
    "big": {"model_bytes": 6 * GIB, "token_bytes": 65536, "compute_bytes": 300 * MIB},
    "other": {"model_bytes": 5 * GIB},
    "huge": {"model_bytes": 50 * GIB},
    "embedder": {"model_bytes": GIB, "embeds": True},
}


@pytest.fixture
def scene(tmp_path: Path) -> Scenery:
    made = Scenery(tmp_path / "scene", card_bytes=10 * GIB, models=MODELS)
    for name in MODELS:
        (tmp_path / f"{name}.gguf").touch()
    return made


@pytest.fixture
def engine(scene: Scenery) -> Engine:
    return find_engine(str(scene.program))


@pytest.fixture
def ollama(scene: Scenery) -> Iterator[QuickOllama]:
    with QuickOllama(scene) as fake:
        yield fake


def started(engine: Engine, tmp_path: Path, name: str = "big", **knobs: Any) -> LlamaServer:
    return launch(
        engine,
        tmp_path / f"{name}.gguf",
        KnobValues(num_ctx=8192).with_(**knobs),
        log_dir=tmp_path,
        timeout_s=PATIENCE_S,
        stall_s=PATIENCE_S,
    )


def ask(url: str, path: str, body: Any = None) -> tuple[int, str]:
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


# as a llama-server


def test_it_is_probed_as_a_llama_server_with_a_card(engine: Engine) -> None:
    assert engine.build == "b7000"
    assert [(device.name, device.total_bytes) for device in engine.devices] == [("CUDA0", 10 * GIB)]
    assert {"flash-attn-value", "verbosity-levels"} <= engine.traits


def test_its_load_is_read_from_its_own_words(engine: Engine, scene: Scenery, tmp_path: Path) -> None:
    with started(engine, tmp_path, gpu_layers=33) as server:
        (row,) = server.report.buffers
        assert (row.device, row.model_bytes) == ("CUDA0", 6 * GIB)
        assert (row.context_bytes, row.compute_bytes) == (512 * MIB, 300 * MIB)
        assert (server.report.offloaded_layers, server.report.num_ctx) == (33, 8192)
        assert scene.card is not None
        assert scene.card.held() == {server.pid: 6 * GIB + 812 * MIB}
    assert scene.card.held() == {}


def test_a_card_that_is_full_refuses_in_the_driver_s_words(engine: Engine, tmp_path: Path) -> None:
    with started(engine, tmp_path), pytest.raises(LaunchFailed) as caught:
        started(engine, tmp_path, "other", gpu_layers=33)
    failure = caught.value.failure
    assert failure.outcome is Outcome.OUT_OF_MEMORY
    assert "cudaMalloc failed: out of memory" in failure.line
    assert failure.requested_bytes == 5 * GIB


def test_a_card_is_free_again_once_its_holder_was_killed(
    engine: Engine, scene: Scenery, tmp_path: Path
) -> None:
    with started(engine, tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.alive())
        assert scene.card is not None
        assert scene.card.free() == 10 * GIB


def test_a_card_can_be_looked_at_while_its_lock_is_held(tmp_path: Path) -> None:
    card = Card.create(tmp_path / "card.json", GIB)
    with card.path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as by a process that was stopped in the middle
        assert card.free() == GIB
    assert card.take(GIB)
    assert not card.take(1)
    assert (card.free(), card.refused(), card.most()) == (0, 1, GIB)
    card.give_back()
    assert card.held() == {}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("oom", Outcome.OUT_OF_MEMORY),
        ("corrupt", Outcome.CORRUPT_FILE),
        ("abort", Outcome.CRASHED),
        ("silent", Outcome.FAILED),
    ],
)
def test_a_fault_comes_once_and_the_next_load_is_good(
    engine: Engine, scene: Scenery, tmp_path: Path, fault: str, outcome: Outcome
) -> None:
    scene.once("big", load_fault=fault)
    with pytest.raises(LaunchFailed) as caught:
        started(engine, tmp_path)
    assert caught.value.failure.outcome is outcome
    started(engine, tmp_path).stop()


def test_a_load_that_hangs_says_nothing_more(engine: Engine, scene: Scenery, tmp_path: Path) -> None:
    scene.once("big", load_fault="hang")
    with pytest.raises(LaunchFailed) as caught:
        launch(
            engine, tmp_path / "big.gguf", KnobValues(num_ctx=512), log_dir=tmp_path, timeout_s=60, stall_s=1
        )
    assert caught.value.failure.outcome is Outcome.STALLED


def test_it_answers_whole_and_as_a_stream(engine: Engine, tmp_path: Path) -> None:
    with started(engine, tmp_path) as server:
        status, text = ask(server.url, "/v1/chat/completions", said("[[tokens 3]]"))
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == " word word word"
        _, text = ask(server.url, "/v1/chat/completions", {**said("[[tokens 3]]"), "stream": True})
        assert text.count('"content":" word"') == 3
        assert text.endswith("data: [DONE]\n\n")
        assert ask(server.url, "/health") == (200, '{"status": "ok"}')
        long = ask(server.url, "/v1/chat/completions", said("x" * 40000))
        assert long[0] == 400
        assert json.loads(long[1])["error"]["type"] == "exceed_context_size_error"


def test_it_dies_in_the_middle_of_an_answer_as_the_prompt_says(engine: Engine, tmp_path: Path) -> None:
    with started(engine, tmp_path) as server:
        with pytest.raises(http.client.HTTPException):
            ask(server.url, "/v1/chat/completions", {**said("[[die 2]]"), "stream": True})
        until(lambda: not server.alive())
        failure = server.failure()
        assert failure is not None
        assert failure.exit_code == -signal.SIGKILL


def test_a_client_that_leaves_is_noted(engine: Engine, scene: Scenery, tmp_path: Path) -> None:
    with started(engine, tmp_path) as server:
        body = json.dumps(said("[[first 60]]")).encode()
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            until(lambda: scene.events("first request"))
        until(lambda: scene.events("gone", how="left", model="big"))


def test_a_model_file_that_it_writes_has_the_size_that_its_load_takes(
    engine: Engine, scene: Scenery, tmp_path: Path
) -> None:
    file = scene.model_file("written", 3 * GIB)
    found = inspect_file(file)
    assert (found.architecture, found.layers) == ("llama", 32)
    assert abs(found.file_bytes - 3 * GIB) < MIB
    with launch(engine, file, KnobValues(num_ctx=512), log_dir=tmp_path) as server:
        assert scene.card is not None
        assert scene.card.held() == {server.pid: 3 * GIB}


# as an Ollama


def test_it_is_found_as_an_ollama_with_a_process_and_a_log(ollama: QuickOllama) -> None:
    server = find_server(ollama.url)
    assert (server.version, server.place, server.pid) == ("0.33.0", "process", ollama.pid)
    assert server.env_source == "log"
    assert server.log == f"file:{ollama.log_path}"


def test_its_runner_is_seen_among_the_processes(ollama: QuickOllama) -> None:
    assert ask(ollama.url, "/api/generate", {"model": "other"})[0] == 200
    assert len(processes.runner_pids(ollama.pid)) == 1
    resident = json.loads(ask(ollama.url, "/api/ps")[1])["models"][0]
    assert (resident["name"], resident["size_vram"], resident["context_length"]) == (
        "other:latest",
        5 * GIB,
        4096,
    )


def test_another_context_is_another_load(ollama: QuickOllama, scene: Scenery) -> None:
    chat = {"model": "big", **said("hello")}
    ask(ollama.url, "/api/chat", chat)
    ask(ollama.url, "/api/chat", chat)
    assert len(scene.events("load")) == 1
    ask(ollama.url, "/api/chat", {**chat, "options": {"num_ctx": 8192}})
    assert [row["ctx"] for row in scene.events("load")] == [4096, 8192]


def test_what_was_idle_longest_goes_for_what_has_no_room(ollama: QuickOllama, scene: Scenery) -> None:
    for name in ("embedder", "big", "other"):
        path, body = ("/api/embed", {"input": "x"}) if name == "embedder" else ("/api/chat", said("hello"))
        assert ask(ollama.url, path, {"model": name, **body})[0] == 200
    names = [row["name"] for row in json.loads(ask(ollama.url, "/api/ps")[1])["models"]]
    assert "big:latest" not in names
    assert "other:latest" in names
    assert isinstance(scene.card, Card)
    assert scene.card.most() <= 10 * GIB


def test_what_never_fits_is_refused_by_the_card(ollama: QuickOllama) -> None:
    status, text = ask(ollama.url, "/api/chat", {"model": "huge", **said("hello")})
    assert status == 500
    assert "cudaMalloc failed: out of memory" in text


def test_a_keep_alive_of_nothing_unloads(ollama: QuickOllama, scene: Scenery) -> None:
    ask(ollama.url, "/api/generate", {"model": "other"})
    (pid,) = processes.runner_pids(ollama.pid)
    ask(ollama.url, "/api/generate", {"model": "other", "keep_alive": 0})
    until(lambda: not runs(pid))
    until(lambda: json.loads(ask(ollama.url, "/api/ps")[1]) == {"models": []})


def test_a_runner_that_dies_ends_its_answers_and_is_loaded_anew(ollama: QuickOllama) -> None:
    status, text = ask(ollama.url, "/v1/chat/completions", {"model": "other", **said("[[die 2]]")})
    assert (status, "unexpected EOF" in text) == (500, True)
    _, text = ask(ollama.url, "/api/chat", {"model": "other", **said("[[die 2]]")})
    assert text.count(" word") == 2
    assert json.loads(text.splitlines()[-1])["error"]
    assert ask(ollama.url, "/api/chat", {"model": "other", **said("hello")})[0] == 200


def test_a_client_that_leaves_while_it_loads_ends_the_load(ollama: QuickOllama, scene: Scenery) -> None:
    scene.change("other", load_s=60)
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{ollama.url}/api/chat", b'{"model":"other","messages":[{}]}', timeout=1)
    until(lambda: scene.events("gone", how="loading"))
    until(lambda: not processes.runner_pids(ollama.pid))


def test_nothing_of_it_outlives_its_end(scene: Scenery) -> None:
    with QuickOllama(scene) as fake:
        ask(fake.url, "/api/generate", {"model": "other"})
        (pid,) = processes.runner_pids(fake.pid)
        fake.kill()
        until(lambda: not runs(pid))
