"""``narthex doctor`` as a person calls it: cases, logs, this machine; and words that make no sense."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.doctor.rules import RULES
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.testing.command_line import Running, narthex

QUEUE = "Error: 503 server busy, please try again.  maximum pending requests exceeded"
WELL = 'time=2026-11-22T10:00:00.000Z level=INFO source=routes.go:1 msg="Listening on 127.0.0.1:11434"'


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Ollama of this machine is asked; the current folder is empty."""
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.json"
    path.write_text(json.dumps({"evidence": {"client_error": QUEUE, "ollama_log": WELL}}))
    return path


class Answer:
    """Exit code, data, talk."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> Answer:
        code = run(command, ["doctor", *map(str, words)])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


def test_a_case_is_diagnosed_as_text_and_as_json(doctor: Any, case: Path) -> None:
    text = doctor("--evidence", case)
    assert text.code == ExitCode.FAILURE
    assert "queue_full" in text.out
    assert text.err == ""
    told = doctor("--evidence", case, "--json")
    assert told.code == ExitCode.FAILURE
    assert set(told.data) == {"findings", "facts", "healthy", "skipped", "version"}
    first = told.data["findings"][0]
    assert first["cause"] == "queue_full"
    assert first["evidence"][0] | {"time": ""} == {
        "source": "client_error",
        "line": 1,
        "text": QUEUE,
        "time": "",
    }


def test_nothing_above_info_is_exit_code_0(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "fine.json").write_text(json.dumps({"evidence": {"ollama_log": WELL}}))
    answer = doctor("--evidence", tmp_path / "fine.json", "--json")
    assert (answer.code, answer.data["healthy"]) == (ExitCode.OK, True)


def test_a_case_comes_through_a_pipe(doctor: Any, case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(case.read_bytes())))
    assert doctor("--evidence", "-", "--json").data["findings"][0]["cause"] == "queue_full"


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"evidence": 1}', '{"evidence": {"dmesg": 1}}'])
def test_what_is_no_case_is_one_sentence(doctor: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    answer = doctor("--evidence", tmp_path / "bad.json")
    assert (answer.code, answer.out) == (ExitCode.USAGE, "")
    assert answer.err.startswith("narthex: ")
    assert len(answer.err.splitlines()) == 2


def test_logs_are_given_one_after_the_other_or_each_with_its_own_flag(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(WELL + "\n")
    (tmp_path / "b.log").write_text(QUEUE + "\n")
    for words in (
        ("--logs", tmp_path / "a.log", tmp_path / "b.log", "--json"),
        ("--json", "--logs", tmp_path / "a.log", "--logs", tmp_path / "b.log"),
        (f"--logs={tmp_path / 'b.log'}", "--json"),
    ):
        answer = doctor(*words)
        (quote, *_) = answer.data["findings"][0]["evidence"]
        assert (answer.code, quote["source"], quote["line"]) == (1, str(tmp_path / "b.log"), 1)


def test_a_log_that_is_not_there_is_one_sentence(doctor: Any, tmp_path: Path) -> None:
    answer = doctor("--logs", tmp_path / "no.log")
    assert answer.code == ExitCode.USAGE
    assert "does not exist" in answer.err


def test_only_asks_for_some_causes(doctor: Any, case: Path) -> None:
    answer = doctor("--evidence", case, "--only", "disk_full", "--only", "port_in_use", "--json")
    assert (answer.code, answer.data["findings"], answer.data["facts"]) == (ExitCode.OK, [], [])


@pytest.mark.parametrize("words", [("--only", "queue_ful"), ("explain", "queue-full"), ("explain", "queue")])
def test_an_unknown_cause_is_refused_with_the_nearest(doctor: Any, words: tuple[str, str]) -> None:
    answer = doctor(*words)
    assert answer.code == ExitCode.USAGE
    assert f"There is no cause «{words[1]}»." in answer.err
    assert "Did you mean queue_full" in answer.err


@pytest.mark.parametrize(
    "words",
    [
        "--evidence c --logs l",
        "--evidence c --fix",
        "--logs l --fix",
        "--yes",
        "--fix --json",
        "--fix --watch",
        "--evidence c --watch",
        "--evidence c --since 2h",
        "--logs l --since 2h",
        "--watch --since 2h",
        "--list --only queue_full",
        "--list --fix",
        "--json explain queue_full",
        "--since 2h bundle",
        "--since tomorrow",
        "--since 2999-01-01",
        "--logs",
        "--logs --json",
        "--nonsense",
        "cure",
    ],
)
def test_words_that_make_no_sense_are_refused(doctor: Any, words: str) -> None:
    answer = doctor(*words.split())
    assert (answer.code, answer.out) == (ExitCode.USAGE, "")
    assert answer.err


def test_all_causes_are_listed_by_area(doctor: Any) -> None:
    answer = doctor("--list")
    assert answer.code == ExitCode.OK
    assert all(rule.slug in answer.out for rule in RULES)
    rows = doctor("--list", "--json").data
    assert [row["cause"] for row in rows] == [rule.slug for rule in RULES]
    assert set(rows[0]) == {"cause", "title", "area"}


def test_a_cause_is_explained(doctor: Any) -> None:
    answer = doctor("explain", "queue_full")
    assert answer.code == ExitCode.OK
    for words in ("Meaning", "Signature", "How to be sure", "Fix", "Verify", "Look-alikes"):
        assert words in answer.out
    assert doctor("explain", "queue_full", "--json").data["cause"] == "queue_full"


def test_this_machine_is_looked_at_and_what_is_found_goes_to_the_journal(doctor: Any) -> None:
    answer = doctor("--json")
    assert answer.code == (ExitCode.OK if answer.data["healthy"] else ExitCode.FAILURE)
    assert answer.data["facts"]
    with Journal.open() as journal:
        kept = [row.cause for row in journal.findings()]
    assert kept == [finding["cause"] for finding in answer.data["findings"]]


def test_files_leave_no_trace_in_the_journal(doctor: Any, case: Path) -> None:
    doctor("--evidence", case)
    with Journal.open() as journal:
        assert journal.findings() == []


def test_a_journal_that_cannot_be_written_stops_no_diagnosis(
    doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NARTHEX_DATA", str(tmp_path / "file" / "below"))
    answer = doctor("--json", "--since", "1s")
    assert answer.data["version"]
    assert "is not in the journal" in answer.err


def test_without_a_terminal_a_fix_changes_nothing(doctor: Any) -> None:
    answer = doctor("--fix", "--only", "ollama_unreachable")
    if answer.code == ExitCode.FAILURE:
        assert "Nothing was changed" in answer.err
    with Journal.open() as journal:
        assert all(not row.remedies for row in journal.findings())


def test_a_bundle_is_written_once_and_diagnosed_again(doctor: Any, tmp_path: Path) -> None:
    answer = doctor("bundle")
    assert answer.code == ExitCode.OK, answer.err
    (path,) = Path.cwd().iterdir()
    assert answer.out.strip() == path.name
    assert re.fullmatch(r"narthex-doctor-\d{8}-\d{6}\.tar\.gz", path.name)
    assert "Look through it before you send it" in answer.err
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("narthex-doctor-*")
    told = json.loads((folder / "diagnosis.json").read_text())
    again = doctor("--evidence", folder / "evidence.json", "--json").data
    assert [row["cause"] for row in again["findings"]] == [row["cause"] for row in told["findings"]]
    assert doctor("bundle", path).code == ExitCode.USAGE


def test_an_odd_place_for_a_bundle_is_refused_before_anything_is_looked_at(doctor: Any) -> None:
    assert doctor("bundle", "no/such/folder/x.tar.gz").code == ExitCode.USAGE
    assert doctor("bundle", ".").code == ExitCode.USAGE
    assert list(Path.cwd().iterdir()) == []


def test_a_watch_tells_a_failure_as_it_comes_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    log.write_text(WELL + "\n")
    with Running("doctor", "--watch", "--json", "--logs", str(log)) as watching:
        watching.until("Watching 1 log")
        with log.open("a") as file:
            file.write(QUEUE + "\n")
        while not watching.printed:
            time.sleep(0.02)
        ended = watching.interrupt()
    assert ended.code == ExitCode.INTERRUPTED
    (row,) = [json.loads(line) for line in ended.out.splitlines()]
    assert (row["finding"]["cause"], row["count"]) == ("queue_full", 1)
    assert "queue_full ×1" in ended.err


def test_tab_completes_verbs_causes_and_files() -> None:
    def offered(*words: str) -> str:
        line = " ".join(("narthex", *words))
        env = {"_NARTHEX_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        return narthex(env=env).out

    assert "plain,queue_full" in offered("doctor", "explain", "queue_f")
    assert "file," in offered("doctor", "--logs", "a.log", "b")


@pytest.mark.skipif(not shutil.which("script"), reason="this test needs a terminal of its own")
def test_on_a_terminal_it_is_coloured_and_as_wide(case: Path) -> None:
    line = f"{sys.executable} -m narthex doctor --evidence {case}"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"TERM": "xterm", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )
    assert "\x1b[" in done.stdout
    assert "queue_full" in done.stdout
