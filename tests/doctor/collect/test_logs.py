"""Logs of services outside containers: which are found, and which part of them is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.engines.ollama.little import little_ollama

from narthex import paths
from narthex.doctor.collect import logs
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.gather import gather
from narthex.doctor.collect.log_places import log_places
from narthex.doctor.collect.logs import MOST_BYTES, excerpt
from narthex.doctor.collect.scope import Scope
from narthex.doctor.reading.text import Text
from narthex.testing.fake_docker import FakeDocker

from .boxes import box

pytestmark = pytest.mark.usefixtures("no_docker")
START = 'time=2026-11-22T11:19:07.830Z level=INFO msg="server config" env="map[OLLAMA_DEBUG:false]"\n'


def look(since: float | None = None) -> Collected:
    return gather(Scope(since=since), collectors=(logs,))


def content(text: Text) -> bytes:
    return b"".join(text.chunks())


def one(found: Collected, kind: str) -> Text:
    texts = [text for text in found.texts if text.kind == kind]
    assert len(texts) == 1, found
    return texts[0]


def stamped(at_s: float, words: str) -> str:
    return f"time={datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S.000Z} level=INFO msg={words}\n"


def test_of_a_server_that_answers_the_log_since_its_start_is_read(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    log.write_text(f"{START}before the last start\n" * 3)
    with little_ollama(log=log):
        text = one(look(), "ollama_log")
    assert text.name == f"{log} from line 7"
    assert b"before the last start" not in content(text)
    assert b"Listening on" in content(text)


def test_a_log_that_a_person_named_is_read_whole_where_no_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "ollama.log"
    log.write_text(f"an old line\n{START}Error: it died\n")
    monkeypatch.setenv("NARTHEX_OLLAMA_LOG", f"file:{log}")
    text = one(look(), "ollama_log")
    assert (text.name, text.path) == (str(log), log)


def test_since_counts_lines_by_their_time(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    rows = [stamped(1_800_000_000 + number, f"line{number}") for number in range(1000)]
    log.write_text("".join(row + "a line without a time\n" for row in rows))
    text = excerpt("ollama_log", log, since=1_800_000_700, last_start=False)
    assert text is not None
    assert text.name == f"{log} from line 1400"
    lines = content(text).decode().splitlines()
    assert lines[0] == "a line without a time"
    assert lines[1].endswith("msg=line700")
    assert lines[-2].endswith("msg=line999")


def test_since_before_everything_is_everything_and_after_it_nothing(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    log.write_text("".join(stamped(1_800_000_000 + number, "x") for number in range(9)))
    whole = excerpt("ollama_log", log, since=1_000, last_start=False)
    assert whole is not None
    assert whole.path == log
    nothing = excerpt("ollama_log", log, since=1_900_000_000, last_start=False)
    assert nothing is not None
    assert content(nothing) == b""


def test_of_a_very_long_log_the_start_and_the_end_are_read(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    line = b"x" * 1023 + b"\n"
    log.write_bytes(b"old\n" + START.encode() + line * (MOST_BYTES // 1024 + 5000) + b"the end\n")
    text = excerpt("ollama_log", log, since=None, last_start=True)
    assert text is not None
    assert text.name == f"{log} (its newest lines)"
    data = content(text)
    assert data.startswith(START.encode())
    assert data.endswith(b"the end\n")
    assert len(data) < MOST_BYTES + (2 << 20)


def test_an_empty_log_gives_nothing(tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    log.touch()
    assert excerpt("ollama_log", log, since=None, last_start=True) is None


def test_a_log_older_than_since_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "ollama.log"
    log.write_text("a line\n")
    monkeypatch.setenv("NARTHEX_OLLAMA_LOG", f"file:{log}")
    assert look(since=time.time() + 60).texts == ()


def test_a_log_that_can_not_be_read_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_OLLAMA_LOG", f"file:{tmp_path}/none.log")
    gaps = look().skipped
    assert any("can't be read: No such file or directory" in gap.why for gap in gaps)


def test_the_newest_llama_server_that_narthex_started_is_read() -> None:
    folder = paths.state_dir() / "engine"
    folder.mkdir(parents=True)
    now = time.time()
    for number, age in enumerate((10, 20, 7200)):
        path = folder / f"llama-server-20261122-12000{number}-40000.log"
        path.write_text(f"log {number}\n")
        os.utime(path, (now - age, now - age))
    assert content(one(look(), "llama_server_log")) == b"log 0\n"
    assert len(look(since=now - 3600).texts) == 2


COMFYUI = "import time, sys; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def comfyui(tmp_path: Path) -> Iterator[Path]:
    """A process that was started as ComfyUI is: its folder."""
    folder = tmp_path / "ComfyUI"
    (folder / "user").mkdir(parents=True)
    (folder / "main.py").write_text(COMFYUI)
    words = [sys.executable, "main.py", "--listen", "127.0.0.1"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield folder
    process.kill()
    process.communicate()


def test_comfyui_s_log_lies_below_where_it_was_started(comfyui: Path) -> None:
    (comfyui / "user" / "comfyui.log").write_text("Prompt executed in 3.1 seconds\n")
    (comfyui / "user" / "comfyui.prev.log").write_text("the run before\n")
    assert content(one(look(), "comfyui_log")) == b"Prompt executed in 3.1 seconds\n"


# --- the journal, read by a program named journalctl ---

JOURNALCTL = """#!{python}
import sys
words = sys.argv[1:]
if "--unit" not in words or words[words.index("--unit") + 1] != "ollama.service":
    sys.exit(0)
sys.stdout.write(open({path!r}).read())
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path, program = tmp_path / "entries", tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(JOURNALCTL.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NARTHEX_OLLAMA_LOG", "journal:ollama.service")
    return path


def test_the_journal_of_a_unit_that_is_down_is_read(journal: Path) -> None:
    lines = "2026-11-22T11:19:09+0000 box systemd[1]: ollama.service: Failed with result 'exit-code'.\n"
    journal.write_text(lines)
    text = one(look(), "ollama_log")
    assert text.name == "journalctl -u ollama.service"
    assert content(text).decode() == lines


def test_of_a_unit_that_answers_the_last_start_is_read(journal: Path) -> None:
    carrier = "2026-11-22T11:19:09+0000 box ollama[9]: "
    journal.write_text(f"{carrier}old\n{carrier}{START}{carrier}new\n")
    with little_ollama():
        assert content(one(look(), "ollama_log")).decode() == f"{carrier}{START}{carrier}new\n"


def test_every_log_has_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "ollama.log"
    with FakeDocker() as docker, little_ollama(log=log):
        monkeypatch.setenv("DOCKER_HOST", docker.host)
        docker.add(box("open-webui"), start=False)
        docker.add(box("db"))
        found = {place.where: place for place in log_places(Scope())}
    assert found[f"file:{log}"].kind == "ollama_log"
    assert found["docker:open-webui"].name == "docker logs open-webui"
    assert found["kernel:"].kind == "dmesg"
    assert not any("db" in where for where in found if where.startswith("docker:"))
