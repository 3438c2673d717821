"""SIGKILL at any moment: nothing corrupt, nothing acknowledged lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from narthex.journal.journal import Journal
from narthex.testing.samples import trial_record

KILLS = 50


def _forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work(write_end)`` in a forked child; returns its pid and the end to read from."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def _kill(pid: int, reader: int, after_s: float) -> list[int]:
    """SIGKILL the child after a while; returns the numbers that it had acknowledged."""
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        return [int(line) for line in stream.read().splitlines()]


def _integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_a_writer_killed_at_fifty_moments_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "data" / "journal.db"
    chance = random.Random(20260101)
    acknowledged: list[int] = []
    with Journal.open(path) as journal:
        study = journal.begin_study(
            key="k", question=b"{}", model=None, engine_key="e", host_key="h", argv=["tune"]
        )

    def write(out: int, first: int) -> None:
        with Journal.open(path) as journal:
            for sequence in range(first, first + 100_000):
                journal.append_trial(study, trial_record(sequence))
                os.write(out, f"{sequence}\n".encode())

    def writer(first: int) -> Callable[[int], None]:
        return lambda out: write(out, first)

    for turn in range(KILLS):
        # a resumed study hands in its last trial again when it does not know whether it was written
        first = acknowledged[-1] if acknowledged and turn % 2 else turn * 1_000_000
        pid, reader = _forked(writer(first))
        acknowledged += _kill(pid, reader, chance.uniform(0, 0.04))
        assert _integrity(path) == "ok"

    with Journal.open(path) as journal:
        stored = [record.sequence for record in journal.trials(study)]
    assert len(stored) == len(set(stored)), "a finished trial is there twice"
    assert set(acknowledged) <= set(stored)
    assert acknowledged, "every child was killed before its first trial: the test proves nothing"
    assert len(set(stored) - set(acknowledged)) <= KILLS  # at most the one in flight, each time


def test_a_journal_killed_while_it_is_made_is_made_by_the_next_one(tmp_path: Path) -> None:
    chance = random.Random(7)

    def maker(path: Path) -> Callable[[int], None]:
        return lambda _out: Journal.open(path).close()

    for turn in range(KILLS):
        path = tmp_path / str(turn) / "journal.db"
        pid, reader = _forked(maker(path))
        _kill(pid, reader, chance.uniform(0, 0.008))
        with Journal.open(path) as journal:
            assert journal.studies() == []
        assert _integrity(path) == "ok"
        assert sorted(file.name for file in path.parent.iterdir()) == [".journal.db.lock", "journal.db"]
