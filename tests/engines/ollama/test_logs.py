"""Ollama's log from a mark on: files that rotate, the journal, a container's output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.engines.ollama import logs
from narthex.engines.ollama.log import server_config
from narthex.engines.ollama.logs import START, DockerLog, FileLog, JournalLog, nanoseconds, open_log
from narthex.engines.ollama.records import Server
from narthex.testing.docker.container import STDERR, STDOUT, FakeContainer
from narthex.testing.fake_docker import FakeDocker

from .little import daemon, facts, little_ollama


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_only_lines_after_the_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    append(path, "before")
    log = FileLog(path)
    mark = log.mark()
    assert log.since(mark) == []
    append(path, "after", "and more")
    assert log.since(mark) == ["after", "and more"]


def test_a_file_that_is_not_there_yet_is_read_from_its_start(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    mark = log.mark()
    assert log.since(mark) == []
    assert "No such file" in log.problem
    append(log.path, "first")
    assert log.since(mark) == ["first"]
    assert log.problem == ""


def test_a_rotation_by_renaming_loses_no_line(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, "before")
    mark = log.mark()
    append(log.path, "in the old file")
    log.path.rename(tmp_path / "server.log.1")
    append(log.path, "in the new file")
    assert log.since(mark) == ["in the old file", "in the new file"]


def test_a_program_that_goes_on_writing_to_the_renamed_file_is_followed(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, "before")
    mark = log.mark()
    log.path.rename(tmp_path / "server.log.1")
    append(tmp_path / "server.log.1", "still here")
    assert log.since(mark) == ["still here"]


def test_a_file_cut_short_is_read_from_its_start(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, "before, a long line")
    mark = log.mark()
    os.truncate(log.path, 0)
    append(log.path, "new")
    assert log.since(mark) == ["new"]


def test_a_file_cut_short_that_grew_beyond_the_mark_is_noticed(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, "before")
    mark = log.mark()
    os.truncate(log.path, 0)
    lines = [f"new {number}" for number in range(50)]
    append(log.path, *lines)
    assert log.since(mark) == lines


def test_the_start_is_the_last_one(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, f"{START} one", "a", f"time=now {START} two", "b")
    assert log.start() == [f"time=now {START} two", "b"]


def test_a_log_without_a_start_is_given_as_it_is(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    assert log.start() == []
    append(log.path)
    assert log.start() == []
    append(log.path, "something")
    assert log.start() == ["something"]


def test_of_a_long_log_the_start_and_the_newest_lines_are_given(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "server.log")
    append(log.path, "old", f"{START} two", "what it found")
    filler = "x" * 999
    with log.path.open("a") as file:
        for _ in range(logs.TAIL_BYTES // 1000 + 2000):
            file.write(filler + "\n")
    append(log.path, "the newest")
    found = log.start()
    assert found[:2] == [f"{START} two", "what it found"]
    assert found[-1] == "the newest"
    assert sum(len(line) + 1 for line in found) < logs.TAIL_BYTES + 2_000_000


def test_a_real_server_log_is_read_with_its_settings(shared: Path) -> None:
    log = FileLog(shared / "ollama-wire" / "server-healthy.log")
    assert server_config(log.start())["OLLAMA_NUM_PARALLEL"] == "1"
    assert log.since(log.mark()) == []


def test_a_server_that_is_killed_in_a_write_leaves_readable_lines(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(b"whole\n\xff\xfetorn")
    assert FileLog(path).start()[0] == "whole"
    assert len(FileLog(path).start()) == 2


def test_the_log_is_the_one_that_the_server_names(tmp_path: Path) -> None:
    def named(log: str) -> Server:
        return Server(url="", version="", era="F", source="", place="process", log=log)

    assert open_log(named("")) is None
    assert isinstance(open_log(named(f"file:{tmp_path}/server.log")), FileLog)
    assert isinstance(open_log(named("journal:ollama.service")), JournalLog)
    source = open_log(named("user-journal:ollama.service"))
    assert source is not None
    assert source.words == "the journal of ollama.service"
    assert isinstance(open_log(named("docker:ollama")), DockerLog)


# --- the journal: a program named journalctl that answers as the real one does, from a file of entries ---

JOURNALCTL = """#!{python}
import sys
entries = [line.rstrip("\\n").split("\\t") for line in open({path!r})]  # unit, cursor, text
unit = sys.argv[sys.argv.index("--unit") + 1]
options = dict(word.partition("=")[::2] for word in sys.argv if word.startswith("--"))
entries = [entry for entry in entries if entry[0] == unit]
if "--grep" in options:
    entries = [entry for entry in entries if options["--grep"] in entry[2]]
if "--after-cursor" in options:
    cursors = [entry[1] for entry in entries]
    entries = entries[cursors.index(options["--after-cursor"]) + 1:]
at = lambda entry: int(entry[1].partition("t=")[2].partition(";")[0], 16) // 1_000_000
if "--since" in options:
    entries = [entry for entry in entries if at(entry) >= int(options["--since"][1:])]
if "--until" in options:
    entries = [entry for entry in entries if at(entry) <= int(options["--until"][1:])]
if "--lines" in options:
    entries = entries[-int(options["--lines"]):]
for entry in entries:
    print(entry[2])
if not entries and "--quiet" not in options:
    print("-- No entries --")
if "--show-cursor" in options and entries:
    print("-- cursor: " + entries[-1][1])
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal's entries; ``journalctl`` on the PATH reads them."""
    path = tmp_path / "entries"
    path.touch()
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(JOURNALCTL.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return path


def entry(text: str, at_s: int, unit: str = "ollama.service") -> str:
    return f"{unit}\ts=1;i={at_s:x};t={at_s * 1_000_000:x};x=9\t{text}"


def test_the_journal_is_read_from_the_mark_on(journal: Path) -> None:
    append(journal, entry("before", 100), entry("another unit's", 101, "cron.service"))
    log = JournalLog("ollama.service")
    mark = log.mark()
    assert log.since(mark) == []
    append(journal, entry("after", 102), entry("another unit's", 103, "cron.service"))
    assert log.since(mark) == ["after"]


def test_a_unit_that_wrote_nothing_yet_is_read_by_time(journal: Path) -> None:
    log = JournalLog("ollama.service")
    mark = log.mark()
    assert mark.cursor == ""
    append(journal, entry("the first", int(mark.at_s) + 5))
    assert log.since(mark) == ["the first"]


def test_the_journal_knows_the_last_start(journal: Path) -> None:
    append(journal, entry(f"{START} one", 100), entry("a", 101), entry(f"{START} two", 102), entry("b", 103))
    assert JournalLog("ollama.service").start() == [f"{START} two", "b"]


def test_of_a_long_journal_the_start_is_still_found(journal: Path) -> None:
    append(journal, entry(f"{START} two", 100), entry("what it found", 101))
    append(journal, *(entry(f"line {number}", 200 + number) for number in range(logs.TAIL_LINES)))
    found = JournalLog("ollama.service").start()
    assert found[:3] == [f"{START} two", "what it found", "line 0"]
    assert found[-1] == f"line {logs.TAIL_LINES - 1}"


def test_a_journal_without_journalctl_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    log = JournalLog("ollama.service")
    assert log.since(log.mark()) == []
    assert "journalctl" in log.problem
    assert not logs.readable_journal("ollama.service")


def test_a_journal_that_shows_nothing_is_not_readable(journal: Path) -> None:
    assert not logs.readable_journal("ollama.service")
    append(journal, entry("a line", 100))
    assert logs.readable_journal("ollama.service")


# --- a container ---


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with daemon() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield fake


@pytest.fixture
def silent(docker: FakeDocker) -> FakeContainer:
    """A container that says nothing by itself."""
    return docker.add(facts("run"), start=False)


def test_both_streams_of_a_container_are_read_from_the_mark_on(silent: FakeContainer) -> None:
    silent.write(STDERR, b"before")
    log = DockerLog("ollama")
    mark = log.mark()
    assert log.since(mark) == []
    silent.write(STDERR, b"a warning")
    silent.write(STDOUT, b"[GIN] a request")
    assert log.since(mark) == ["a warning", "[GIN] a request"]


def test_a_container_with_a_terminal_is_read_too(silent: FakeContainer) -> None:
    silent.facts()["Config"]["Tty"] = True
    log = DockerLog("ollama")
    mark = log.mark()
    silent.write(STDOUT, b"one")
    silent.write(STDOUT, b"two with  blanks")
    assert log.since(mark) == ["one", "two with  blanks"]


def test_the_start_of_a_long_running_container_is_found(docker: FakeDocker, silent: FakeContainer) -> None:
    silent.start()
    until_it_says(silent, START.encode())
    start = silent.rows[0].at_ns
    silent.rows += [
        type(silent.rows[0])(start + (logs.HEAD_S + 1) * 10**9 + number, STDERR, b"later %d" % number)
        for number in range(logs.TAIL_LINES)
    ]
    found = DockerLog("ollama").start()
    assert START in found[0]
    assert found[-1] == f"later {logs.TAIL_LINES - 1}"


def until_it_says(container: FakeContainer, words: bytes) -> None:
    while not any(words in row.line for row in container.rows):
        subprocess.run(["sleep", "0.02"], check=True)


def test_a_container_that_is_gone_has_no_lines_and_says_why(docker: FakeDocker) -> None:
    log = DockerLog("ollama")
    assert log.since(log.mark()) == []
    assert "No such container" in log.problem


def test_a_log_driver_that_can_not_be_read_says_why(docker: FakeDocker, silent: FakeContainer) -> None:
    docker.refuse("logs", 501, "configured logging driver does not support reading")
    log = DockerLog("ollama")
    assert log.start() == []
    assert "does not support reading" in log.problem


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T01:00:01.5+01:00", 1_500_000_000),
        ("level=INFO", 0),
        ("", 0),
    ],
)
def test_times_are_read_to_the_nanosecond(stamp: str, expected: int) -> None:
    assert nanoseconds(stamp) == expected


def test_what_a_live_server_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with little_ollama({"OLLAMA_CONTEXT_LENGTH": "8192"}, log=path):
        assert server_config(FileLog(path).start())["OLLAMA_CONTEXT_LENGTH"] == "8192"
