"""A watch over real files, programs and servers that change while it looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.collect.places import file_place, place_of
from narthex.doctor.collect.pulse import Pulse
from narthex.doctor.collect.scope import Scope
from narthex.testing.docker.container import STDERR
from narthex.testing.fake_comfyui import FakeComfyUI
from narthex.testing.fake_docker import FakeDocker

from .watching import Watching, append

BUSY = (
    '[GIN] 2026/11/22 - 20:00:0{n} | 503 | 1ms | 127.0.0.1 | POST "/api/chat" server busy, please try again.'
)
CALM = '[GIN] 2026/11/22 - 20:00:00 | 200 | 1ms | 127.0.0.1 | GET "/api/tags"'
FULL = ("queue_full", 1)


def busy(number: int = 1) -> str:
    return BUSY.format(n=number)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.touch()
    return path


def test_a_line_that_a_process_appends_is_told(log: Path) -> None:
    script = f"""
        import time
        with open({str(log)!r}, "a", buffering=1) as log:
            print({CALM!r}, file=log)
            time.sleep(0.5)
            print({busy()!r}, file=log)
            time.sleep(60)
    """
    with Watching(file_place("ollama_log", log)) as watching:
        writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
        try:
            watching.until(lambda: watching.findings)
        finally:
            writer.kill()
            writer.wait()
    finding, count = watching.findings[0]
    assert (finding.cause, count) == FULL
    assert finding.evidence[0].text == busy()
    assert finding.evidence[0].line == 2


def test_what_stood_there_before_is_context_and_no_news(log: Path) -> None:
    append(log, busy(), CALM)
    with Watching(file_place("ollama_log", log)) as watching:
        assert watching.noted("Watching 1 log; already there before: queue_full.")
        append(log, CALM, CALM)
        time.sleep(1)
        assert watching.causes() == []
        append(log, busy(2))
        watching.until(lambda: watching.findings)
    assert watching.causes() == [FULL]
    assert watching.stop().findings == {"queue_full": 1}


def test_the_same_failure_is_told_again_only_when_it_happens_again(log: Path) -> None:
    with Watching(file_place("ollama_log", log)) as watching:
        append(log, busy(1), busy(2), busy(3))
        watching.until(lambda: watching.findings)
        append(log, CALM)
        time.sleep(2)
        assert watching.causes() == [FULL]
        append(log, busy(4))
        watching.until(lambda: len(watching.findings) > 1)
    assert watching.causes() == [FULL, ("queue_full", 2)]
    result = watching.stop()
    assert result.lines == 5
    assert "queue_full ×2" in result.words


def test_a_line_without_its_end_is_read_too(log: Path) -> None:
    with Watching(file_place("ollama_log", log)) as watching:
        with log.open("a") as file:
            file.write(busy())
        watching.until(lambda: watching.findings)


def test_a_rotated_log_is_followed_in_both_files(log: Path, tmp_path: Path) -> None:
    append(log, CALM)
    old = tmp_path / "server.log.1"
    with Watching(file_place("ollama_log", log)) as watching:
        log.rename(old)
        append(log, CALM)
        time.sleep(0.3)
        append(old, busy(1))  # the writer still has the old file open
        watching.until(lambda: watching.causes() == [FULL])
        time.sleep(1.6)
        append(log, busy(2))
        watching.until(lambda: watching.causes() == [FULL, ("queue_full", 2)])


def test_a_log_that_is_copied_and_cut_is_followed_on(log: Path) -> None:
    append(log, *[CALM] * 50)
    with Watching(file_place("ollama_log", log)) as watching:
        os.truncate(log, 0)
        append(log, busy())
        watching.until(lambda: watching.findings)


def test_a_log_that_was_written_anew_and_longer_is_seen_as_another(log: Path) -> None:
    append(log, CALM)
    with Watching(file_place("ollama_log", log)) as watching:
        log.write_text(f"{busy()}\n" + f"{CALM} another\n" * 40)
        watching.until(lambda: watching.findings)


def test_a_log_that_vanishes_is_told_and_waited_for(log: Path) -> None:
    with Watching(file_place("ollama_log", log)) as watching:
        log.unlink()
        watching.until(lambda: watching.noted(f"{log} is gone"))
        append(log, busy())
        watching.until(lambda: watching.findings)
        watching.until(lambda: watching.noted(f"{log} is back"))


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later.log"
    with Watching(file_place("ollama_log", path)) as watching:
        watching.until(lambda: watching.noted("is gone"))
        append(path, busy())
        watching.until(lambda: watching.findings)


# --- a container: the SDK follows the fake daemon's stream ---


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with FakeDocker() as daemon:
        monkeypatch.setenv("DOCKER_HOST", daemon.host)
        yield daemon


def ollama_container() -> dict[str, Any]:
    return {
        "Id": "c" * 64,
        "Name": "/ollama",
        "Image": "sha256:1",
        "Config": {"Image": "ollama/ollama", "Env": [], "Tty": False},
        "HostConfig": {},
    }


def test_a_container_is_followed_also_after_it_was_started_anew(docker: FakeDocker) -> None:
    container = docker.add(ollama_container())
    container.write(STDERR, busy(1).encode())
    with Watching(place_of("ollama_log", "docker:ollama")) as watching:
        container.write(STDERR, busy(2).encode())
        watching.until(lambda: watching.causes() == [FULL])
        container.stop()
        watching.until(lambda: watching.noted("docker logs ollama is gone (exited"))
        time.sleep(1.6)
        container.start()
        container.write(STDERR, busy(3).encode())
        watching.until(lambda: watching.causes() == [FULL, ("queue_full", 2)])
        assert watching.noted("docker logs ollama is back")


def test_without_docker_the_watch_says_so_and_goes_on(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    sources = (place_of("ollama_log", "docker:ollama"), file_place("ollama_log", log))
    with Watching(*sources) as watching:
        watching.until(lambda: watching.noted("docker logs ollama is gone (no Docker daemon answers here)"))
        append(log, busy())
        watching.until(lambda: watching.findings)


# --- the journal: a program named journalctl that follows a file of entries ---

JOURNALCTL = """#!{python}
import os, sys, time
path, marks = {path!r}, {marks!r}
words = sys.argv[1:]
assert words[words.index("--unit") + 1] == "ollama.service", words
lines = open(path).read().splitlines(keepends=True)
if "--show-cursor" in words:
    sys.stdout.writelines(lines)
    print(f"-- cursor: {{len(lines)}}")
    sys.exit()
assert "--follow" in words, words
open(marks, "a").write(f"{{os.getpid()}}\\n")
cursor = next((word.partition("=")[2] for word in words if word.startswith("--after-cursor")), None)
given = int(cursor) if cursor is not None else len(lines)
while True:
    lines = open(path).read().splitlines(keepends=True)
    sys.stdout.writelines(lines[given:])
    sys.stdout.flush()
    given = len(lines)
    time.sleep(0.02)
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entries; pids of the journalctls that follow stand in «marks» beside it."""
    path = tmp_path / "entries"
    path.touch()
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    marks = str(tmp_path / "marks")
    program.write_text(JOURNALCTL.format(python=sys.executable, path=str(path), marks=marks))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return path


def followers(journal: Path) -> list[int]:
    marks = journal.with_name("marks")
    return [int(word) for word in marks.read_text().split()] if marks.exists() else []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def carried(line: str) -> str:
    return f"2026-11-22T20:00:00+0000 box ollama[123]: {line}"


def test_the_journal_is_followed_and_its_reader_ended(journal: Path) -> None:
    append(journal, carried(busy(1)))
    with Watching(place_of("ollama_log", "journal:ollama.service")) as watching:
        append(journal, carried(busy(2)))
        watching.until(lambda: watching.causes() == [FULL])
        assert watching.findings[0][0].evidence[-1].text == carried(busy(2))
        assert all(map(lives, followers(journal)))
    assert followers(journal)
    assert not any(map(lives, followers(journal)))


def test_a_journal_reader_that_dies_is_told_and_started_anew(journal: Path) -> None:
    with Watching(place_of("ollama_log", "journal:ollama.service")) as watching:
        watching.until(lambda: followers(journal))
        os.kill(followers(journal)[0], signal.SIGKILL)
        watching.until(lambda: len(followers(journal)) > 1)
        assert watching.noted("journalctl -u ollama.service is gone (journalctl ended with -9)")
        append(journal, carried(busy()))
        watching.until(lambda: watching.findings)


WATCH = """
import sys, threading
from narthex.doctor.collect.places import place_of
from narthex.doctor.rules import RULES, SIGNS
from narthex.doctor.watch import watch

print(watch(
    [place_of("ollama_log", "journal:ollama.service")], RULES, SIGNS,
    on_finding=lambda finding, count: print(finding.cause, count, flush=True),
    on_note=lambda note: None, stop=threading.Event(),
).words)
"""


def test_ctrl_c_ends_it_with_one_line_and_no_child_left(journal: Path) -> None:
    watcher = subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    until = time.monotonic() + 30
    while not followers(journal):
        assert time.monotonic() < until
        time.sleep(0.02)
    append(journal, carried(busy()))
    try:
        assert watcher.stdout.readline() == "queue_full 1\n"
        watcher.send_signal(signal.SIGINT)
        told, _ = watcher.communicate(timeout=30)
    finally:
        watcher.kill()
    assert watcher.returncode == 0
    assert told.startswith("Watched 1 log for ")
    assert told.endswith(": 1 new line; queue_full ×1.\n")
    assert not any(map(lives, followers(journal)))


# --- services that come and go ---


def test_a_service_that_goes_away_and_comes_back_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    with FakeComfyUI() as first:
        port = int(first.url.rpartition(":")[2])
        Path("narthex.toml").write_text(f'[beside.comfyui]\nurl = "{first.url}"\n')
        pulse = Pulse(Scope())
        with Watching(probe=pulse) as watching:
            watching.until(lambda: pulse() and watching.noted("Watching"))
            time.sleep(1)
            first.vanish()
            watching.until(lambda: watching.noted("does not answer: "))
            with FakeComfyUI(port=port) as again:
                watching.until(lambda: watching.noted(f"ComfyUI answers at {again.url}"))


def test_a_probe_that_breaks_is_told_and_the_logs_are_followed_on(log: Path) -> None:
    def probe() -> list[Any]:
        raise RuntimeError("no luck")

    with Watching(file_place("ollama_log", log), probe=probe) as watching:
        watching.until(lambda: watching.noted("The services can't be looked at: RuntimeError: no luck"))
        append(log, busy())
        watching.until(lambda: watching.findings)
