"""What goes wrong in the fake Ollama goes wrong for real: memory that runs out, processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Start = Callable[..., FakeOllama]
LONG = {"num_predict": 2000, "num_ctx": 512}
CPU_LIMIT_MIB = 650  # the 270M model loads at a context of 4096, and does not at 32768
DEVICE_LIMIT_MIB = 700  # the same for a device of its own


def error_of(fake: FakeOllama, body: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(HTTPError) as caught:
        call(fake.url, "/api/generate", body)
    return caught.value.code, str(json.loads(caught.value.read())["error"])


def listed(fake: FakeOllama) -> list[dict[str, Any]]:
    return list(call(fake.url, "/api/ps")["models"])


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_a_context_that_does_not_fit_runs_out_of_memory(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, limit_mib=CPU_LIMIT_MIB)
    body = {"model": "small", "options": {"num_ctx": 4096}}
    assert call(fake.url, "/api/generate", body)["done_reason"] == "load"
    status, words = error_of(fake, {"model": "small", "options": {"num_ctx": 32768}})
    assert status == 500
    assert words.startswith("llama-server process has terminated: exit status 1: ")
    assert "failed to allocate" in words
    assert listed(fake) == []
    assert 'msg="Load failed"' in fake.log_path.read_text()


def test_an_automatic_context_is_lowered_once(
    fake_ollama: Start, gemma: Path, rpc_server_binary: Path
) -> None:
    fake = fake_ollama(models={"small": gemma}, rpc=True, limit_mib=DEVICE_LIMIT_MIB)
    assert "default_num_ctx=4096" not in fake.log_path.read_text(), "needs a machine of 23 GiB"
    call(fake.url, "/api/generate", {"model": "small"})
    assert listed(fake)[0]["context_length"] == 4096
    assert "reducing automatic context and retrying once" in fake.log_path.read_text()
    status, _ = error_of(fake, {"model": "small", "options": {"num_ctx": 32768}})
    assert status == 500


def test_other_models_make_room_before_a_load_fails(fake_ollama: Start, gemma: Path, tmp_path: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, limit_mib=CPU_LIMIT_MIB)
    other = tmp_path / "other.gguf"
    other.write_bytes(gemma.read_bytes() + bytes(64))
    fake.add_model("other", other)
    call(fake.url, "/api/generate", {"model": "small", "options": {"num_ctx": 512}})
    error_of(fake, {"model": "other", "options": {"num_ctx": 32768}})
    assert "evicting all other models and retrying once" in fake.log_path.read_text()
    assert listed(fake) == []


def test_a_runner_killed_while_idle_is_listed_until_it_is_asked(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    call(fake.url, "/api/generate", {"model": "small"})
    (pid,) = fake.runner_pids()
    assert fake.kill_runner() == 1
    until(lambda: fake.runner_pids() == [])
    assert len(listed(fake)) == 1
    call(fake.url, "/api/generate", {"model": "small"})
    assert fake.runner_pids() != [pid]
    assert "llama-server process no longer running" in fake.log_path.read_text()


def test_a_runner_killed_in_a_stream_ends_it_with_an_error_line(fake_ollama: Start, gemma: Path) -> None:
    import urllib.request

    fake = fake_ollama(models={"small": gemma})
    body = json.dumps({"model": "small", "prompt": "Count: 1, 2,", "options": LONG}).encode()
    with urllib.request.urlopen(urllib.request.Request(fake.url + "/api/generate", data=body)) as answer:
        assert json.loads(answer.readline())["done"] is False
        fake.kill_runner()
        *_, last = answer
    assert json.loads(last) == {"error": "an error was encountered while running the model: unexpected EOF"}


def test_a_runner_killed_while_it_loads_fails_the_load(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    found: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: found.append(error_of(fake, {"model": "small"})))
    thread.start()
    until(fake.kill_runner)
    thread.join()
    assert found == [(500, "llama-server process has terminated: signal: killed")]


def test_a_client_that_leaves_ends_its_load(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    body = json.dumps({"model": "small"}).encode()
    with socket.create_connection(("127.0.0.1", fake.port)) as client:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        until(fake.runner_pids)
    until(lambda: fake.runner_pids() == [])
    until(lambda: "| 499 |" in fake.log_path.read_text())
    assert "client connection closed before llama-server finished loading" in fake.log_path.read_text()


def test_a_silent_runner_is_given_up(
    fake_ollama: Start, gemma: Path, engine_binary: Path, tmp_path: Path
) -> None:
    silent = tmp_path / "llama-server"
    silent.write_text(
        f'#!/bin/sh\ncase "$*" in *--model*) exec sleep 600;; esac\nexec {engine_binary} "$@"\n'
    )
    silent.chmod(0o755)
    fake = fake_ollama(models={"small": gemma}, engine=silent, env={"OLLAMA_LOAD_TIMEOUT": "1s"})
    assert error_of(fake, {"model": "small"}) == (500, "timed out waiting for llama-server to start - ")


def test_a_missing_blob_is_not_found_and_still_listed(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    fake.blob("small").unlink()
    assert error_of(fake, {"model": "small"}) == (404, 'model "small" not found, try pulling it first')
    assert [tag["name"] for tag in call(fake.url, "/api/tags")["models"]] == ["small:latest"]


def test_a_killed_server_takes_its_runners_along_and_comes_back(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    call(fake.url, "/api/generate", {"model": "small"})
    (runner,) = fake.runner_pids()
    url = fake.url
    fake.kill()
    until(lambda: not Path(f"/proc/{runner}/exe").exists())
    with pytest.raises(OSError, match="refused"):
        call(url, "/api/version")
    fake.start()
    assert fake.url == url
    assert listed(fake) == []
    assert call(url, "/api/tags")["models"][0]["name"] == "small:latest"


def test_a_fake_ends_with_the_process_that_started_it(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    assert fake._server is not None
    assert fake._server.stdin is not None
    fake._server.stdin.close()  # what the kernel does when this process dies
    fake._server.wait(timeout=30)


def test_sigterm_cuts_a_stream(fake_ollama: Start, gemma: Path) -> None:
    import http.client
    import urllib.request

    fake = fake_ollama(models={"small": gemma})
    body = json.dumps({"model": "small", "prompt": "Count: 1, 2,", "options": LONG}).encode()
    with urllib.request.urlopen(urllib.request.Request(fake.url + "/api/generate", data=body)) as answer:
        answer.readline()
        os.kill(fake.pid, signal.SIGTERM)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
