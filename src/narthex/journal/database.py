"""The journal's file: made whole or not at all, opened in milliseconds, its errors put into words."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from narthex.errors import JournalError
from narthex.flock import flock
from narthex.journal.migrations import MIGRATIONS, migrate, refuse_newer, version

BUSY_TIMEOUT_S = 10.0


def open_database(
    path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    """A connection in autocommit mode and what is not as it should be (gaps). Raises JournalError.

    A missing file is made, an older one is migrated, one that can't be written is opened for reading.
    """
    with translated(path):
        if not path.exists():
            _create(path)
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            connection = _connect(path, busy_timeout_s)
            try:
                gaps = _prepare(connection)
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            return connection, gaps
        return _open_read_only(path)


def _connect(path: Path, busy_timeout_s: float, how: str = "mode=rw") -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fspath(path))}?{how}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
    )


def _prepare(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Settings of a connection. FULL: each commit reaches the disk, so that power loss costs no trial;
    a commit takes milliseconds and a trial seconds."""
    gap = use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return (gap,) if gap else ()


def use_wal(connection: sqlite3.Connection) -> str | None:
    """Switch to a write-ahead log, so that readers and a writer don't wait for each other.

    Returns None, or the gap where the filesystem can't do it; the journal is as safe then, only slower.
    """
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError as error:
        if _code(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL):
            raise
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode == "wal":
        return None
    return (
        f"journal: no write-ahead log on this filesystem (mode «{mode}»); two processes wait for each other"
    )


def _create(path: Path) -> None:
    """Make the file under another name, then rename it: a kill on the way leaves no half-made journal."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _creating(path):
        if path.exists():  # another process was faster
            return
        _clear(path)  # what a process left that was killed right here
        fresh = path.with_name(f".{path.name}.new")
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            connection = _connect(fresh, BUSY_TIMEOUT_S)
            try:
                _prepare(connection)
                migrate(connection)
            finally:
                connection.close()
            os.rename(fresh, path)
        finally:
            _clear(path)


def _clear(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.new*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _creating(path: Path) -> Iterator[None]:
    """One creator at a time; the kernel lets go when the process ends, however it ends."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_read_only(path: Path) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    connection = _connect(path, BUSY_TIMEOUT_S, "mode=ro")
    try:
        older = _is_older(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if _code(error) != sqlite3.SQLITE_CANTOPEN or _size(path.with_name(path.name + "-wal")):
            raise
        # the -shm file can't be made here; with no -wal beside it the file itself is all there is
        connection = _connect(path, BUSY_TIMEOUT_S, "immutable=1")
        older = _is_older(connection)
    if older:
        connection.close()
        raise JournalError(
            f"The journal at {path} is of an older version and can't be written to.",
            hint="Make its folder writable once, or copy the file and point NARTHEX_DATA to the copy.",
        )
    return connection, (f"journal: {path} can't be written to; it is read only",)


def _is_older(connection: sqlite3.Connection) -> bool:
    """Whether the file would have to be migrated first. Raises JournalError for a newer one."""
    number = version(connection)
    refuse_newer(number)
    return number < len(MIGRATIONS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html), 0 where Python raised by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system raise into a :class:`JournalError` with a way out."""
    try:
        yield
    except sqlite3.Error as error:
        message, hint = _explain(path, _code(error), str(error))
        raise JournalError(message, hint=hint) from error
    except OSError as error:
        message, hint = _explain(path, _OF_ERRNO.get(error.errno or 0, 0), error.strerror or str(error))
        raise JournalError(message, hint=hint) from error


_OF_ERRNO = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EFBIG: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EACCES: sqlite3.SQLITE_READONLY,
    errno.EPERM: sqlite3.SQLITE_READONLY,
}

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH)


def _is_full(path: Path) -> bool:
    """Whether nothing more fits beside the journal. SQLite calls it an I/O error when the index of the
    write-ahead log, of 32 KiB, finds no room."""
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 64 * 1024


def _explain(path: Path, code: int, why: str) -> tuple[str, str]:
    """Message and hint for one SQLite result code."""
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return (
            f"The disk is full: the journal at {path} could not be written ({why}).",
            "Free some space and run the same command again; what was journaled before is safe.",
        )
    if code in _FORBIDDEN:
        return (
            f"The journal at {path} can't be written to ({why}).",
            "Make that folder writable for you, or point NARTHEX_DATA to one that is.",
        )
    if code in _DAMAGED:
        return (
            f"The journal at {path} is damaged ({why}).",
            f"It was left as it is. Move it aside with «mv {path} {path}.damaged» and run the command again; "
            f"«sqlite3 {path}.damaged .recover» saves most of what it holds.",
        )
    if code in _LOCKED:
        return (
            f"Another program held the journal at {path} for too long ({why}).",
            "Wait for it to finish, or end it, and run the same command again.",
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return (
            f"The journal at {path} refused a row ({why}).",
            "Its rows are only ever added, and a row about a study needs that study.",
        )
    return (
        f"The journal at {path} can't be used ({why}).",
        "Look at the disk and the folder, or point NARTHEX_DATA to another one.",
    )
