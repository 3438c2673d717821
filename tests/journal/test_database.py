"""Full disks, folders that can't be written to, damaged files: each in one clear sentence."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.errors import ExitCode, JournalError
from narthex.journal.database import use_wal
from narthex.journal.journal import Journal
from narthex.testing.samples import trial_record

NOBODY = 65534


def _mount(folder: Path, options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", os.fspath(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test needs to mount a small disk: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of one MiB."""
    folder = tmp_path / "small"
    _mount(folder, "size=1m")
    yield folder
    subprocess.run(["umount", os.fspath(folder)], check=True)


def _in_child(work: Callable[[], None]) -> None:
    """Run it in a forked child, which may give up its rights; fails when the child does."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _as_nobody(work: Callable[[], None]) -> None:
    """Run it without the rights of root, for whom every folder is writable."""
    if os.getuid() != 0:
        work()
        return

    def drop() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work()

    _in_child(drop)


def _begin(journal: Journal) -> str:
    return journal.begin_study(
        key="k", question=b"{}", model=None, engine_key="e", host_key="h", argv=["tune"]
    )


def _fill_up(folder: Path) -> Path:
    """Take all free space of a disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    return ballast


def _append_until_full(journal: Journal, study: str) -> tuple[int, JournalError]:
    for sequence in range(10_000):
        try:
            journal.append_trial(study, trial_record(sequence))
        except JournalError as error:
            return sequence, error
    raise AssertionError("the disk never got full")


def test_a_full_disk_is_said_so_and_loses_nothing_that_was_written(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with Journal.open(path) as journal:
        study = _begin(journal)
        ballast = _fill_up(small_disk)
        count, error = _append_until_full(journal, study)
        assert "The disk is full" in error.message
        assert "Free some space" in error.hint
        assert error.exit_code == ExitCode.JOURNAL
        assert [record.sequence for record in journal.trials(study)] == list(range(count))
        ballast.unlink()
        journal.append_trial(study, trial_record(count))  # goes on as if nothing had been
        assert len(journal.trials(study)) == count + 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_journal_that_does_not_fit_on_the_disk_is_not_half_made(small_disk: Path) -> None:
    _fill_up(small_disk)
    path = small_disk / "journal.db"
    with pytest.raises(JournalError, match="The disk is full"):
        Journal.open(path)
    assert not [file for file in small_disk.iterdir() if "new" in file.name or file == path]


def test_a_disk_that_is_full_before_the_journal_is_opened_is_said_so(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with Journal.open(path) as journal:
        _begin(journal)
    _fill_up(small_disk)
    with pytest.raises(JournalError, match="The disk is full"):
        Journal.open(path)


def test_a_file_that_may_not_grow_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        study = _begin(journal)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        with Journal.open(path) as journal:
            _count, error = _append_until_full(journal, study)
        assert error.message.startswith(("The disk is full", f"The journal at {path} can't be used"))

    _in_child(work)
    with Journal.open(path) as journal:
        journal.append_trial(study, trial_record(99_999))


def test_a_journal_in_a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "small"
    _mount(folder, "size=2m")
    try:
        path = folder / "journal.db"
        with Journal.open(path) as journal:
            study = _begin(journal)
            journal.append_trial(study, trial_record(1))
        subprocess.run(["mount", "-o", "remount,ro", os.fspath(folder)], check=True)
        with Journal.open(path) as journal:
            assert journal.trials(study) == [trial_record(1)]
            assert "read only" in journal.gaps[0]
            with pytest.raises(JournalError, match="can't be written to") as caught:
                journal.append_trial(study, trial_record(2))
            assert "NARTHEX_DATA" in caught.value.hint
            with pytest.raises(JournalError, match="can't be written to"):
                journal.must_be_writable()
            with pytest.raises(JournalError, match="can't be written to"), journal.lock_study("key"):
                pass
        with pytest.raises(JournalError, match="can't be written to"):
            Journal.open(folder / "elsewhere" / "journal.db")
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)


def test_someone_elses_folder_is_said_to_be_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    for parent in folder.parents:  # the way to it must be open for the child
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
        if parent == tmp_path.parent.parent:
            break
    if os.getuid() != 0:
        folder.chmod(0o555)

    def work() -> None:
        with pytest.raises(JournalError, match="can't be written to"):
            Journal.open(folder / "journal.db")

    _as_nobody(work)
    assert not (folder / "journal.db").exists()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"my shopping list: " * 500)
    with pytest.raises(JournalError, match="is damaged") as caught:
        Journal.open(path)
    assert f"mv {path} {path}.damaged" in caught.value.hint
    assert path.read_bytes() == b"my shopping list: " * 500


def test_a_damaged_journal_is_left_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        study = _begin(journal)
        for sequence in range(50):
            journal.append_trial(study, trial_record(sequence))
    content = bytearray(path.read_bytes())
    content[4096 * 12 :] = b"\xaa" * (len(content) - 4096 * 12)
    path.write_bytes(content)

    def use() -> None:
        with Journal.open(path) as journal:
            journal.trials(study)
            journal.append_trial(study, trial_record(60))

    with pytest.raises(JournalError, match="is damaged"):
        use()


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes(name TEXT)")
    connection.close()
    with pytest.raises(JournalError, match="some other program's database"):
        Journal.open(path)


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    with Journal.open(path) as journal:
        assert journal.studies() == []


def test_a_folder_where_the_file_should_be_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(JournalError, match=r"can't be"):
        Journal.open(tmp_path / "journal.db")


def test_a_journal_held_for_too_long_is_said_to_be_held(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path, busy_timeout_s=0.05) as journal:
        study = _begin(journal)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="Another program held the journal"):
            journal.append_trial(study, trial_record(1))
        assert journal.trials(study) == []  # reading needs no one's leave
        other.execute("ROLLBACK")
        other.close()
        journal.append_trial(study, trial_record(1))


def test_the_journal_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        assert journal.gaps == ()
        assert (tmp_path / "journal.db-wal").exists()


def test_a_place_that_cannot_do_write_ahead_logging_is_a_gap() -> None:
    memory = sqlite3.connect(":memory:")
    gap = use_wal(memory)
    memory.close()
    assert gap is not None
    assert "no write-ahead log" in gap


def test_a_path_with_odd_characters_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "a?b #c%20 «d»" / "journal.db"
    with Journal.open(path) as journal:
        _begin(journal)
    assert path.exists()
    with Journal.open(path) as journal:
        assert len(journal.studies()) == 1


def test_an_uncommitted_log_in_a_read_only_folder_is_not_passed_over(tmp_path: Path) -> None:
    """The newest trials may be in the log only; reading the file without it would hide them."""
    source, folder = tmp_path / "source", tmp_path / "copy"
    with Journal.open(source / "journal.db") as journal:
        study = _begin(journal)
        journal.append_trial(study, trial_record(1))
        _mount(folder, "size=2m")
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(source / name, folder / name)
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(folder)], check=True)
    try:
        with pytest.raises(JournalError, match="can't be written to"):
            Journal.open(folder / "journal.db")
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)
