"""Processes as /proc shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from narthex.host import processes


@pytest.fixture
def parent_of_two() -> Iterator[subprocess.Popen[str]]:
    words = "sleep 1000 & sleep 1000 & echo ready; wait"
    with subprocess.Popen(
        ["sh", "-c", words], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        yield shell
        os.killpg(shell.pid, 9)


def test_a_family_is_the_process_and_all_below_it(parent_of_two: subprocess.Popen[str]) -> None:
    found = processes.family(parent_of_two.pid)
    assert parent_of_two.pid in found
    assert len(found) == 3


def test_work_is_seen_and_idleness_too(parent_of_two: subprocess.Popen[str]) -> None:
    idle = processes.work_done(parent_of_two.pid)
    assert processes.work_done(parent_of_two.pid) == idle
    mine = processes.work_done(os.getpid())
    assert sum(range(3_000_000)) > 0
    assert processes.work_done(os.getpid()) > mine


def test_a_process_that_is_gone_has_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert processes.cpu_seconds(gone.pid) is None
    assert processes.resident_bytes(gone.pid) is None
    assert processes.work_done(gone.pid) == 0
    assert processes.family(gone.pid) == {gone.pid}


def test_memory_and_time_of_this_process() -> None:
    memory, busy = processes.resident_bytes(os.getpid()), processes.busy_seconds()
    assert memory is not None
    assert memory > 2**20
    assert busy is not None
    assert busy > (processes.cpu_seconds(os.getpid()) or 0)


def test_a_process_tells_how_it_was_started() -> None:
    words = [sys.executable, "-c", "print('up', flush=True); input()", "word"]
    with subprocess.Popen(
        words, env={"FLAVOUR": "plain"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        pid = child.pid
        assert pid in processes.pids()
        assert processes.command_line(pid) == words
        assert processes.environment(pid) == {"FLAVOUR": "plain"}
        assert processes.name_of(pid).startswith("python")
        assert processes.user_id(pid) == os.getuid()
        assert processes.parent_of(pid) == os.getpid()
        since, own = processes.started_s(pid), processes.started_s(os.getpid())
        assert since is not None
        assert own is not None
        assert since >= own
        assert any(name.startswith("pipe:") for name in processes.open_files(pid))
        child.communicate(b"\n")


def test_a_process_that_is_gone_tells_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert processes.command_line(child.pid) == []
    assert processes.environment(child.pid) == {}
    assert processes.name_of(child.pid) == ""
    assert processes.user_id(child.pid) is None
    assert processes.parent_of(child.pid) == 0
    assert processes.started_s(child.pid) is None
    assert processes.open_files(child.pid) == set()
