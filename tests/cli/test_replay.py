"""``narthex replay``."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from narthex.cli.commands.replay import command
from narthex.cli.failure import run
from narthex.errors import ExitCode
from narthex.gateway.watch.record import LoadRecord, RequestRecord, StartRecord
from narthex.gateway.watch.request_log import NAME, folder

LINES = [
    StartRecord(at=1000.0, total=20 << 30, resident=("a",)),
    LoadRecord(at=1001.0, key="b", name="b:7b", seconds=4.0, need=12 << 30, clients=("ide",), evicted=("a",)),
    RequestRecord(
        id="1", at=1002.0, api="ollama", path="/api/chat", key="a", ran="a:7b", choices=("a",), total_s=1.0
    ),
    RequestRecord(
        id="2",
        at=1004.0,
        api="openai",
        path="/v1/chat/completions",
        key="b",
        choices=("b",),
        client="ide",
        total_s=1.0,
    ),
]


def call(*arguments: str) -> int:
    return run(command, arguments)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines(LINES))
    return path


def test_a_log_is_shown_as_it_was_and_as_it_would_be(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(log), "--set", "starvation=30s", "--set", "vram=64GB") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.startswith("2 requests in 2.0 s.")
    assert "as it was" in out
    assert "replayed" in out
    assert "starvation=30s, vram=64GB" in out
    assert "GPU time lost by swaps" in out
    assert "ide" in out
    assert "How much VRAM they need is not in the log: a" in err


def test_json_has_the_same_courses(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(log), "--json") == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["happened"]["requests"], found["happened"]["swaps"]) == (2, 1)
    assert found["tried"] is None
    assert found["replayed"]["answered"] == 2


def test_without_a_log_it_is_ones_own(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == ExitCode.USAGE
    assert "no request log yet" in capsys.readouterr().err
    folder().mkdir(parents=True)
    (folder() / NAME).write_bytes(log.read_bytes())
    assert call() == ExitCode.OK
    assert "2 requests" in capsys.readouterr().out


def test_a_setting_that_there_is_not_is_refused_with_those_there_are(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(str(log), "--set", "speed=fast") == ExitCode.USAGE
    assert "starvation" in capsys.readouterr().err
