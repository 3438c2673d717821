"""``flock``: a lock that the kernel drops with its holder, on the filesystems that have it. The locked file
says who that is."""

from __future__ import annotations

import errno
import fcntl
import os
import time

import msgspec

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def flock(descriptor: int, operation: int) -> None:
    """Lock an open file. Raises BlockingIOError when it is taken and ``LOCK_NB`` is set.

    Some network filesystems have no locks; there two processes must not share a folder of narthex, and the
    lock does nothing rather than stop everyone.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock."""

    pid: int
    since: float  # seconds since the epoch


def sign(descriptor: int) -> None:
    """Write into a locked file that this process holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(Holder(os.getpid(), time.time())), 0)


def holder_of(descriptor: int) -> Holder | None:
    """Who signed a lock file last; None where that can't be read."""
    try:
        return msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def held_by(holder: Holder | None) -> tuple[str, str]:
    """(who holds a lock, what to do about it) in words."""
    if holder is None:
        return "another process", "Wait for it to finish, or stop it."
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    way = f"Wait for it to finish, or stop it with «kill -INT {holder.pid}» and start again."
    return f"process {holder.pid}, since {since}", way
