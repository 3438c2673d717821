"""One process a study: a lock file beside the journal.

The kernel drops the lock when its holder ends, however it ends; no stale lock can stay behind.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

import msgspec

from narthex.errors import JournalError
from narthex.flock import flock


class Holder(msgspec.Struct, frozen=True):
    """Who holds a study."""

    pid: int
    since: float  # seconds since the epoch


def take(folder: Path, key: str) -> int:
    """Take the lock of the study with this key; give the number to :func:`release`.

    Raises JournalError when another process holds it, and says which; OSError for a folder that can't
    be written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = re.sub(r"[^0-9A-Za-z_-]", "_", key)[:100]
    descriptor = os.open(folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(Holder(os.getpid(), time.time())), 0)
    except BlockingIOError as error:
        written = os.pread(descriptor, 4096, 0)
        os.close(descriptor)
        raise _taken(written) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def release(lock: int) -> None:
    """Let go. The file stays: if it were deleted, one process could lock a new file of the same name
    while another still holds the old one."""
    os.close(lock)


def _taken(written: bytes) -> JournalError:
    try:
        holder = msgspec.json.decode(written, type=Holder)
    except msgspec.MsgspecError:
        who, hint = "another process", "Wait for it to finish, or stop it."
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        who = f"process {holder.pid}, since {since}"
        hint = f"Wait for it to finish, or stop it with «kill -INT {holder.pid}» and start again."
    return JournalError(f"This study is already being run by {who}.", hint=hint)
