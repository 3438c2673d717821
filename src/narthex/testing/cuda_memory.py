"""Really held memory of a GPU, through the driver alone: what a tenant's test needs of CUDA."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any


class CudaMemory:
    """``bytes`` on the first card until it is closed. ``held`` is False where there is no card or no room."""

    def __init__(self, count: int) -> None:
        self._pointer = ctypes.c_uint64(0)
        self._driver = _driver()
        self.held = False
        if self._driver is not None and count > 0:
            self._driver.cuCtxSetCurrent(_context())
            self.held = self._driver.cuMemAlloc_v2(ctypes.byref(self._pointer), ctypes.c_size_t(count)) == 0

    def close(self) -> None:
        """Give it back."""
        if self._driver is not None and self.held:
            self._driver.cuCtxSetCurrent(_context())
            self._driver.cuMemFree_v2(self._pointer)
            self.held = False


@lru_cache(maxsize=1)
def _driver() -> Any:
    """libcuda with a card behind it; None elsewhere."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or not count.value:
        return None
    return driver


@lru_cache(maxsize=1)
def _context() -> ctypes.c_void_p:
    """The card's own context, which each thread must be given."""
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    driver = _driver()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    return context
