"""``flock``: a lock that the kernel drops with its holder, on the filesystems that have it."""

from __future__ import annotations

import errno
import fcntl

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
