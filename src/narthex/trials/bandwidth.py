"""How fast this machine reads main memory: measured once a process, in a tenth of a second."""

from __future__ import annotations

import ctypes
import threading
import time
from functools import lru_cache

from narthex.units import MIB

_BYTES = 256 * MIB  # several times the last-level cache of most machines
_ROUNDS = 3


@lru_cache(maxsize=1)
def cpu_bandwidth(threads: int) -> float | None:
    """Bytes a second with ``threads`` threads reading; None where the memory can't be had.

    Reading is a search with libc's ``memchr`` for a byte that is not there: it reads at the memory's speed,
    and ctypes lets the threads run side by side. The best of three rounds counts.
    """
    size = _BYTES // max(1, threads)
    libc = ctypes.CDLL(None)
    libc.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    libc.memchr.restype = ctypes.c_void_p
    try:
        blocks = [ctypes.create_string_buffer(size) for _ in range(max(1, threads))]
    except MemoryError:
        return None
    for block in blocks:
        ctypes.memset(block, 1, size)  # untouched pages would all be one page of zeros
    seconds = min(_round(libc, blocks, size) for _ in range(_ROUNDS))
    return len(blocks) * size / seconds


def _round(libc: ctypes.CDLL, blocks: list[ctypes.Array[ctypes.c_char]], size: int) -> float:
    workers = [threading.Thread(target=libc.memchr, args=(block, 2, size)) for block in blocks]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started
