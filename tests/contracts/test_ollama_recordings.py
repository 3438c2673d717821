"""The fake answers what was recorded of a real Ollama: the same request, the same keys, words and status."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.ollama.shape import lines_shape, plain, shape

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Groups that build on each other are replayed together. Left out are recordings of time (queues, clients that
# leave), of failures that need a limit, and of a second blob; tests of the fake itself make those happen.
GROUPS = (
    ["002", "003", "004", "014", "015", "016", "017", "019", "235"],
    ["030", "031", "033", "034", "035", "036", "037", "038", "040", "041", "042", "046", "047"],
    ["044", "045"],
    ["048", "049", "050", "051"],
    ["052", "053", "054", "059"],
    ["061"],
    ["063"],
    ["067"],
    ["069", "070"],
    ["071"],
    ["073"],
    ["077", "078", "079", "080", "084", "085", "086", "087"],
    ["082", "083", "088"],
    ["101", "102", "103"],
    ["104", "105", "106", "109"],
    ["110", "111", "112"],
)
LOADS = ("061", "063", "067", "069", "070", "071", "073")  # what the log says is compared, too
# said once for each model, or only where a killed runner had printed an error before
SOMETIMES = ('WARN "model is missing', 'ERROR "llama-server terminated')
OTHER_BLOB = "tinymoe"
VERBOSE_ONLY = {"general.tags", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.tokens"}


@pytest.fixture(scope="module")
def recordings(shared: Path) -> Path:
    return shared / "ollama-wire"


@pytest.fixture(scope="module")
def server(
    engine_binary: Path, gemma: Path, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    """A fake with the models of the recordings, made by the recorded requests."""
    folder = tmp_path_factory.mktemp("recorded")
    with FakeOllama(folder / "models", engine=engine_binary, env={"OLLAMA_KEEP_ALIVE": "5m"}) as fake:
        fake.add_model("gemma3-270m", gemma)
        for number in ("010", "011"):
            replay(fake, exchanges(recordings, number)[0])
        yield fake


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_the_fake_answers_as_recorded(server: FakeOllama, recordings: Path, group: list[str]) -> None:
    for number in group:
        if number in LOADS:
            begin_as_recorded(server, exchanges(recordings, number)[0])
        begin = server.log_path.stat().st_size
        for index, recorded in enumerate(exchanges(recordings, number)):
            if recorded.get("status") is None or OTHER_BLOB in json.dumps(recorded.get("request_body")):
                continue
            status, kind, body = replay(server, recorded)
            where = f"{number}, request {index + 1}"
            assert status == recorded["status"], where
            assert kind == recorded["response_headers"].get("Content-Type"), where
            assert answer_shape(body) == recorded_shape(recorded), where
        if number in LOADS:
            said = server.log_path.read_bytes()[begin:].decode("utf-8", "replace").splitlines()
            wanted = [line for recorded in exchanges(recordings, number) for line in log_of(recorded)]
            assert commands(said) == commands(wanted), number
            assert messages(said) == messages(wanted), number


def exchanges(recordings: Path, number: str) -> list[dict[str, Any]]:
    (path,) = recordings.glob(f"{number}-*.json")
    recorded = json.loads(path.read_text())
    return list(recorded.get("exchanges") or [recorded])


def begin_as_recorded(server: FakeOllama, first: dict[str, Any]) -> None:
    """Unloaded where the first request loaded; else as that request needs it."""
    unload = {
        "method": "POST",
        "path": "/api/generate",
        "request_body": {"model": "gemma3-270m", "keep_alive": 0},
    }
    replay(server, unload if commands(log_of(first)) else first)


def log_of(recorded: dict[str, Any]) -> list[str]:
    log = recorded.get("server_log") or []
    return log.splitlines() if isinstance(log, str) else log


def commands(lines: list[str]) -> list[str]:
    """What runners were started with, without paths and ports."""
    found = [
        re.search(r'msg="starting llama-server" cmd="\S+ --model \S+ --port \d+ (.*)"', line)
        for line in lines
    ]
    return [match[1] for match in found if match]


def messages(lines: list[str]) -> set[str]:
    """The kinds of lines that Ollama itself wrote; words between quotes and numbers differ."""
    found = [re.match(r'time=\S+ level=(\w+) source=\S+ msg=("(?:[^"\\]|\\.)*"|\S+)', line) for line in lines]
    kinds = {f"{match[1]} {re.sub(r'[0-9.]+', 'N', match[2])}" for match in found if match}
    return {kind for kind in kinds if not kind.startswith(SOMETIMES)}


def replay(server: FakeOllama, recorded: dict[str, Any]) -> tuple[int, str | None, str]:
    given = recorded.get("request_body")
    body = given if isinstance(given, str) else json.dumps(given) if given is not None else None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        headers = recorded.get("request_headers") or {}
        connection.request(recorded["method"], recorded["path"], body=body, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers.get("Content-Type"), reply.read().decode()
    finally:
        connection.close()


def answer_shape(text: str) -> Any:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return stream_shape(lines)
    try:
        return known(shape(json.loads(text)))
    except ValueError:
        return plain(text)


def recorded_shape(recorded: dict[str, Any]) -> Any:
    if recorded.get("stream"):
        return stream_shape([entry["line"] for entry in recorded["stream"] if entry["line"].strip()])
    if isinstance(recorded.get("body"), dict):
        return known(shape(recorded["body"]))
    return answer_shape(recorded.get("body_text") or "")


def stream_shape(lines: list[str]) -> Any:
    done = [line.removeprefix("data: ") for line in lines]
    return lines_shape([line for line in done if line != "[DONE]"]), done[-1] == "[DONE]"


def known(found: Any) -> Any:
    """Arrays of a vocabulary were cut by the recorder."""
    info: dict[str, Any] = found.get("model_info", {}) if isinstance(found, dict) else {}
    for name in VERBOSE_ONLY & set(info):
        info[name] = info[name] and ["…"]
    return found
