"""The note of what was loaded, and one narthex a server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narthex import paths
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.notes import (
    Former,
    Note,
    add_ours,
    drop_note,
    holder,
    only_one,
    read_note,
    write_note,
)
from narthex.engines.ollama.records import Container, Server
from narthex.errors import EngineError

URL = "http://127.0.0.1:11434"
HOLD = """
import sys, time
from narthex.engines.ollama.notes import only_one
from narthex.engines.ollama.records import Server
server = Server(url=sys.argv[1], version="0.33.0", era="F", source="flag", place="process")
with only_one(server):
    print("held", flush=True)
    time.sleep(600)
"""


def at(url: str = URL, container: str | None = None) -> Server:
    return Server(
        url=url,
        version="0.33.0",
        era="F",
        source="flag",
        place="container" if container else "process",
        container=Container(id="1" * 64, name=container, image="ollama") if container else None,
    )


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
    add_ours(URL, "a", 1)
    add_ours(URL, "b")
    add_ours(URL, "a", 2)
    note = read_note(URL)
    assert note is not None
    assert [(one.name, one.server) for one in note.ours] == [("b", None), ("a", 2)]


def test_a_folder_that_cannot_be_written_is_told_before_anything_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NARTHEX_STATE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="can't be written"):
        write_note(a_note())
    with pytest.raises(EngineError, match="can't be written"), only_one(at()):
        pass


def test_a_second_narthex_is_told_who_works_with_the_server() -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, URL], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(EngineError, match=f"process {first.pid}"), only_one(at()):
            pass
        for name in ("127.0.0.1", "localhost", "[::1]"):
            found = holder(parse_host(f"http://{name}:11434"), None)
            assert found is not None
            assert found.pid == first.pid
            with pytest.raises(EngineError), only_one(at(f"http://{name}:11434")):
                pass
        assert holder(parse_host("http://10.0.0.2:11434"), None) is None
        with only_one(at("http://10.0.0.2:11434")), only_one(at("http://127.0.0.1:11435")):
            pass  # other servers are free
    finally:
        first.kill()
        first.wait()
    assert holder(parse_host(URL), None) is None
    with only_one(at()):
        assert os.getpid()  # the kernel dropped the lock with its holder


def test_the_lock_is_free_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), only_one(at()):
        raise ZeroDivisionError
    with only_one(at()):
        pass


def test_a_container_is_one_server_by_whatever_address() -> None:
    with (
        only_one(at("http://127.0.0.1:11434", "ollama")),
        pytest.raises(EngineError),
        only_one(at("http://172.17.0.2:11434", "ollama")),
    ):
        pass


def test_the_names_of_the_loopback_share_a_note() -> None:
    write_note(a_note(Former(name="a")))
    for name in ("localhost", "[::1]", "127.0.0.1"):
        assert read_note(f"http://{name}:11434") == read_note(URL) is not None
    assert read_note("http://localhost:11435") is None
