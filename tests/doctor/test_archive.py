"""An archive is written whole or not at all, never over another file, for its owner only."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from narthex.doctor.archive import write_archive
from narthex.errors import UsageError

FILES = {"evidence.json": b"{}", "README.txt": b"look"}


def test_the_archive_is_for_its_owner_and_tells_nothing_of_who_that_is(tmp_path: Path) -> None:
    path = tmp_path / "case.tar.gz"
    size = write_archive(path, FILES)
    assert path.stat().st_size == size
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as tar:
        rows = tar.getmembers()
    assert [row.name for row in rows] == ["case/evidence.json", "case/README.txt"]
    assert {(row.uid, row.gid, row.uname, row.gname) for row in rows} == {(0, 0, "", "")}
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["case.tar.gz"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "case.tar.gz"
    path.write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        write_archive(path, FILES)
    dangling = tmp_path / "link.tar.gz"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="there already"):
        write_archive(dangling, FILES)
    assert path.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        write_archive(tmp_path / "no" / "case.tar.gz", FILES)


def test_a_full_disk_leaves_no_half_archive(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", os.fspath(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this test needs to mount a small disk")
    try:
        with pytest.raises(OSError, match="No space left"):
            write_archive(folder / "case.tar.gz", {"evidence.json": os.urandom(200_000)})
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", os.fspath(folder)], check=True)
