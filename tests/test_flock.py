"""A lock file that says who holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from narthex.flock import flock, held_by, holder_of, sign


def opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def test_who_finds_it_locked_reads_who_holds_it(tmp_path: Path) -> None:
    mine, other = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    try:
        flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sign(mine)
        with pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        who, way = held_by(holder_of(other))
    finally:
        os.close(mine)
        os.close(other)
    assert who.startswith(f"process {os.getpid()}, since 2")
    assert f"kill -INT {os.getpid()}" in way


def test_a_lock_that_nobody_signed_is_another_processs(tmp_path: Path) -> None:
    lock = opened(tmp_path / "lock")
    try:
        assert holder_of(lock) is None
    finally:
        os.close(lock)
    assert held_by(None) == ("another process", "Wait for it to finish, or stop it.")
