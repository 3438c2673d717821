"""The note of what was loaded, and one narthex a server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narthex import paths
from narthex.engines.ollama.notes import (
    Former,
    Note,
    add_ours,
    drop_note,
    only_one,
    read_note,
    write_note,
)
from narthex.errors import EngineError

URL = "http://127.0.0.1:11434"
HOLD = """
import sys, time
from narthex.engines.ollama.notes import only_one
with only_one(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def a_note(*formers: Former) -> Note:
    return Note(url=URL, pid=1, at=time.time(), formers=formers)


def test_a_note_reads_back_as_it_was_written() -> None:
    note = a_note(Former(name="qwen3:30b", forever=True, options={"num_ctx": 8192, "use_mmap": False}))
    write_note(note)
    assert read_note(URL) == note


def test_each_server_has_its_own_note() -> None:
    write_note(a_note(Former(name="a")))
    assert read_note("http://10.0.0.2:11434") is None


def test_no_note_is_no_error() -> None:
    drop_note(URL)
    assert read_note(URL) is None


def test_a_torn_note_counts_as_none() -> None:
    write_note(a_note())
    (path,) = (paths.state_dir() / "ollama").glob("*.json")
    path.write_text(path.read_text()[:10])
    assert read_note(URL) is None


def test_what_narthex_loads_is_remembered_once_and_only_beside_a_note() -> None:
    add_ours(URL, "a")
    assert read_note(URL) is None
    write_note(a_note())
    add_ours(URL, "a")
    add_ours(URL, "a")
    note = read_note(URL)
    assert note is not None
    assert note.ours == ("a",)


def test_a_folder_that_cannot_be_written_is_told_before_anything_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NARTHEX_STATE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="can't be written"):
        write_note(a_note())
    with pytest.raises(EngineError, match="can't be written"), only_one(URL):
        pass


def test_a_second_narthex_is_told_who_works_with_the_server() -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, URL], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(EngineError, match=f"process {first.pid}"), only_one(URL):
            pass
        with only_one("http://10.0.0.2:11434"):
            pass  # another server is free
    finally:
        first.kill()
        first.wait()
    with only_one(URL):
        assert os.getpid()  # the kernel dropped the lock with its holder


def test_the_lock_is_free_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), only_one(URL):
        raise ZeroDivisionError
    with only_one(URL):
        pass
