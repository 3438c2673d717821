"""One process a study: a lock file beside the journal.

The kernel drops the lock when its holder ends, however it ends; no stale lock can stay behind.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from narthex.errors import JournalError
from narthex.flock import flock, held_by, holder_of, sign


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
        sign(descriptor)
    except BlockingIOError as error:
        who, hint = held_by(holder_of(descriptor))
        os.close(descriptor)
        raise JournalError(f"This study is already being run by {who}.", hint=hint) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def release(lock: int) -> None:
    """Let go. The file stays: if it were deleted, one process could lock a new file of the same name
    while another still holds the old one."""
    os.close(lock)
