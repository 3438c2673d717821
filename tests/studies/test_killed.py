"""SIGKILL at any moment loses at most the trial in flight."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from narthex.journal.journal import Journal
from narthex.testing.killable_study import run

KILLS = 50


def start(journal: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "narthex.testing.killable_study", str(journal), "0.03"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def told(journal: Path) -> list[list[tuple[str, object]]]:
    """The trials of every study, oldest study first."""
    with Journal.open(journal) as opened:
        ids = [row.id for row in reversed(opened.studies())]
        return [[(r.trial.purpose, r.trial.knobs) for r in opened.trials(study)] for study in ids]


@pytest.mark.slow
def test_fifty_kills_corrupt_nothing_and_repeat_no_finished_trial(tmp_path: Path) -> None:
    clean = tmp_path / "clean.db"
    run(clean, 0.0)
    whole = told(clean)[0]
    journal, chance, kills, ends = tmp_path / "killed.db", random.Random(5), 0, 0
    while kills < KILLS or ends == 0:
        with start(journal) as child:
            time.sleep(chance.uniform(0.15, 0.6))
            if kills < KILLS:
                child.kill()
            child.wait()
        kills += child.returncode != 0
        ends += child.returncode == 0
        with closing(sqlite3.connect(journal)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for trials in told(journal):
        assert trials == whole[: len(trials)]
    assert any(trials == whole for trials in told(journal))
