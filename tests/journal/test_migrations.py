"""Files of every older version open, keep their rows, and get the new tables; newer ones are refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from narthex.errors import JournalError
from narthex.journal.journal import Journal
from narthex.journal.migrations import APPLICATION_ID, MIGRATIONS, migrate, version
from narthex.testing.samples import KNOBS, finding_draft, gateway_event, soak_report, trial_record

ASSETS = Path(__file__).parent / "assets"
STUDY_OF_V1 = "20260101-0a1b2c"
STUDY_OF_V2 = "20260202-1b2c3d"
STUDY_OF_V3 = "20260303-2c3d4e"


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _tables(path: Path) -> list[tuple[str, str]]:
    connection = _open(path)
    rows = connection.execute(
        "SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    connection.close()
    return rows


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A journal as the first version left it: one study, two trials, no profiles and no soaks."""
    path = tmp_path / "journal.db"
    shutil.copy(ASSETS / "v1.db", path)
    return path


def test_a_file_of_the_first_version_is_migrated_and_keeps_its_rows(v1: Path) -> None:
    with Journal.open(v1) as journal:
        row = journal.study(STUDY_OF_V1)
        assert [record.sequence for record in journal.trials(row.id)] == [1, 2]
        assert journal.decisions(row.id)[0].text == "the plan expects it to fit"
        assert journal.notes()[0].text == "written by version 1"
        journal.append_soak(study=row.id, knobs=KNOBS, report=soak_report())
        assert len(journal.soaks(row.id)) == 1
        assert journal.profile_bodies() == []


def test_a_file_of_the_second_version_keeps_its_rows_and_takes_findings(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(ASSETS / "v2.db", path)
    with Journal.open(path) as journal:
        row = journal.study(STUDY_OF_V2)
        assert row.verdict == "All layers fit."
        assert len(journal.soaks(row.id)) == 1
        assert [profile.name for profile in journal.profile_bodies()] == ["p"]
        assert journal.notes()[0].text == "written by version 2"
        assert journal.findings() == []
        journal.append_findings([finding_draft()])
        assert [found.cause for found in journal.findings()] == ["queue_full"]


def test_a_file_of_the_third_version_keeps_its_rows_and_takes_events_of_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(ASSETS / "v3.db", path)
    with Journal.open(path) as journal:
        assert journal.study(STUDY_OF_V3).verdict == "All layers fit."
        (found,) = journal.findings()
        assert [(one.step, one.outcome) for one in found.remedies] == [("ollama stop", "done")]
        assert found.checks[0].gone
        assert journal.notes()[0].text == "written by version 3"
        assert journal.gateway_events() == []
        journal.append_gateway_events([gateway_event()])
        assert [row.kind for row in journal.gateway_events()] == ["loaded"]


@pytest.mark.parametrize("asset", ["v1.db", "v2.db", "v3.db"])
def test_a_migrated_file_has_the_schema_of_a_new_one(asset: str, tmp_path: Path) -> None:
    shutil.copy(ASSETS / asset, tmp_path / "old.db")
    Journal.open(tmp_path / "old.db").close()
    Journal.open(tmp_path / "new.db").close()
    assert _tables(tmp_path / "old.db") == _tables(tmp_path / "new.db")


def test_every_version_but_the_newest_has_a_file_among_the_assets() -> None:
    for number in range(1, len(MIGRATIONS)):
        connection = _open(ASSETS / f"v{number}.db")
        assert version(connection) == number
        connection.close()


def test_a_file_of_a_newer_version_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close()
    connection = _open(path)
    connection.execute("INSERT INTO schema_migrations VALUES (99, 'from the future', 0)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="written by a newer narthex"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_a_step_that_fails_leaves_the_version_before_it(v1: Path) -> None:
    connection = _open(v1)
    connection.execute("CREATE TABLE soaks(in_the_way TEXT)")
    connection.close()
    with pytest.raises(JournalError, match="already exists"):
        Journal.open(v1)
    connection = _open(v1)
    assert version(connection) == 1
    assert connection.execute("SELECT count(*) FROM trials").fetchone() == (2,)
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'profiles'").fetchone()
    connection.close()


def test_each_step_is_written_down_with_its_name(tmp_path: Path) -> None:
    connection = _open(tmp_path / "journal.db")
    migrate(connection)
    rows = connection.execute("SELECT version, name FROM schema_migrations ORDER BY version").fetchall()
    assert rows == [(number, step.name) for number, step in enumerate(MIGRATIONS, 1)]
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def test_an_older_file_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", os.fspath(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this test needs to mount a small disk")
    try:
        shutil.copy(ASSETS / "v1.db", folder / "journal.db")
        subprocess.run(["mount", "-o", "remount,ro", os.fspath(folder)], check=True)
        with pytest.raises(JournalError, match="older version") as caught:
            Journal.open(folder / "journal.db")
        assert "writable" in caught.value.hint
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)


def test_a_trial_of_version_one_reads_as_todays_record(v1: Path) -> None:
    with Journal.open(v1) as journal:
        first = journal.trials(STUDY_OF_V1)[0]
    assert first.trial.knobs == KNOBS
    assert first.observation.turn_s == trial_record(1).observation.turn_s
