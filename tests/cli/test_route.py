"""``narthex route`` as a person and as a program read it, with and without a gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.cli.target import find_target
from narthex.engines.ollama.api import Api
from narthex.journal.journal import Journal
from narthex.journal.rows import GatewayEventDraft
from narthex.knobs import KnobValues
from narthex.profiles.store import save_profile
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.samples import profile as sample

KNOBS = KnobValues(num_ctx=512, gpu_layers=0, batch=128, ubatch=128)
Policed = Callable[[str], None]


@pytest.fixture(scope="module")
def ollama(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    with FakeOllama(tmp_path_factory.mktemp("ollama") / "models", engine=engine_binary) as fake:
        fake.add_model("one", gemma)
        fake.add_model("two", gemma, {"num_ctx": 256})
        yield fake


@pytest.fixture
def policed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policed:
    """The house policy of one test; its gateway listens where nobody does, unless it says otherwise."""

    def write(text: str) -> None:
        path = tmp_path / "narthex.toml"
        path.write_text(text if "[gateway]" in text else f"{text}\n[gateway]\nlisten = '127.0.0.1:9'\n")
        monkeypatch.setenv("NARTHEX_CONFIG", str(path))

    write("")
    return write


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(command, ["route", *words])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = printed(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


@contextmanager
def gateway(status: int, answer: Any) -> Iterator[tuple[str, list[str]]]:
    """Something that listens and answers everything so. Yields its address and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization', '')}".strip())
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_role_is_told_with_its_choices_in_order(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    policed("[roles]\nquality = ['gone:7b', 'one', 'two']\n")
    code, out, _ = printed(capsys, "quality", "--ollama", ollama.url)
    assert code == 0
    assert "The role «quality» is one:latest; not here: gone:7b." in out
    lines = out.splitlines()
    (one,) = [number for number, line in enumerate(lines) if line.startswith("1  one:latest")]
    assert lines[one + 1].startswith("2  two:latest")
    assert "Ollama's and the model's own" in lines[one]
    assert "Idle it stays 30 min" in out


def test_a_profile_is_told_as_the_models_setting(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    target = find_target("one", ollama=ollama.url)
    with Journal.open() as journal:
        kept = msgspec.structs.replace(sample(knobs=KNOBS), name="one-512", model=target.model)
        save_profile(journal, msgspec.structs.replace(kept, engine_kind="ollama"))
    found = data(capsys, "one", "--ollama", ollama.url)
    (choice,) = found["choices"]
    assert (choice["profile"], choice["proven"], choice["num_ctx"]) == ("one-512", True, 512)
    assert choice["options"] == {"num_ctx": 512, "num_gpu": 0, "num_batch": 128}
    assert found["role"] is None
    assert found["keep_alive_s"] == 1800.0
    assert found["what_if"] is None


def test_more_context_than_there_is_is_refused_with_both_numbers(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = printed(capsys, "two", "--ctx", "9000", "--ollama", ollama.url)
    assert code != 0
    assert not out
    assert "9,000" in err
    assert "256" in err
    assert "narthex tune" in err


def test_an_unknown_name_is_answered_with_the_near_ones(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = printed(capsys, "onne", "--ollama", ollama.url)
    assert code != 0
    assert "model 'onne' not found." in err
    assert "one:latest" in err


def test_without_any_ollama_the_reason_is_told(policed: Policed, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = printed(capsys, "one", "--ollama", "http://127.0.0.1:9")
    assert code != 0
    assert "127.0.0.1:9" in err


def test_the_room_is_told_where_a_budget_is_set(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    policed("[gateway]\nvram = '64 MiB'\nlisten = '127.0.0.1:9'")
    code, out, _ = printed(capsys, "one", "--ollama", ollama.url)
    assert code == 0
    assert "Room: 64 MiB" in out
    assert "a part of it stays in main memory" in out


def test_a_running_gateway_is_asked_what_it_would_do(
    ollama: FakeOllama, policed: Policed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# who\nme s3cret\n")
    seen = {
        "key": "one:latest",
        "ready": False,
        "evicts": ["two:latest"],
        "waits_for": ["big"],
        "position": 2,
    }
    with gateway(200, {"forecast": seen, "load_s": 12.5, "more": 1}) as (listen, asked):
        policed(f"[gateway]\nlisten = '{listen}'\nkeys = '{keys}'")
        code, out, _ = printed(capsys, "one", "--what-if", "--ollama", ollama.url)
    assert code == 0
    assert (
        "The gateway would load one:latest, and wait for big to finish first, and unload two:latest." in out
    )
    assert "about 12.5 s (its last load)" in out
    assert asked == ["/narthex/what-if?model=one Bearer s3cret"]


@pytest.mark.parametrize(("status", "answer"), [(200, {"a": 1}), (200, "x"), (401, {}), (404, {})])
def test_what_is_no_gateway_is_said_and_the_answer_worked_out_here(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str], status: int, answer: Any
) -> None:
    with gateway(status, answer) as (listen, _):
        policed(f"[gateway]\nlisten = '{listen}'")
        found = data(capsys, "one", "--what-if", "--ollama", ollama.url)
    assert found["what_if"]["told_by"] == "here"
    assert any(listen in gap for gap in found["gaps"])


def test_without_a_gateway_what_would_be_unloaded_is_worked_out_from_what_ollama_holds(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    Api(ollama.url).preload("two", timeout_s=60)
    try:
        (two,) = data(capsys, "two", "--what-if", "--ollama", ollama.url)["choices"]
        assert two["loaded"]
        there = data(capsys, "two", "--what-if", "--ollama", ollama.url)["what_if"]
        other = data(capsys, "one", "--what-if", "--ollama", ollama.url)["what_if"]
    finally:
        Api(ollama.url).unload("two")
    assert (there["name"], there["ready"], there["load_s"]) == ("two:latest", True, None)
    assert (other["name"], other["ready"]) == ("one:latest", False)
    assert other["evicts"] == ["two:latest"]  # one file is held once
    assert other["load_source"] == "an estimate from its size, at 1 GB a second"


def test_how_long_a_load_takes_is_what_the_gateway_measured(
    ollama: FakeOllama, policed: Policed, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        GatewayEventDraft(at=number, kind="loaded", model="one:latest", body=b'{"seconds": %d}' % number)
        for number in (7, 9, 50)
    ]
    with Journal.open() as journal:
        journal.append_gateway_events(rows)
    found = data(capsys, "one", "--what-if", "--ollama", ollama.url)["what_if"]
    assert found["load_s"] == 9
    assert "3 of its loads" in found["load_source"]
