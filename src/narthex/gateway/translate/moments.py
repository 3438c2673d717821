"""Moments and durations as the two APIs write them."""

from __future__ import annotations

import time


def now_text() -> str:
    """This moment for ``created_at``: RFC 3339 with nanoseconds."""
    moment = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 10**9))
    return f"{whole}.{moment % 10**9:09d}Z"


class Stopwatch:
    """From a request's coming to its end. ``received`` is on the clock of the event loop, which is the
    monotonic one; 0 where it is not known."""

    def __init__(self, received: float) -> None:
        now = time.monotonic()
        self._begun = received if 0 < received <= now else now
        self.waited_ns = round((now - self._begun) * 1e9)  # for a place at a model that is loaded

    def total_ns(self) -> int:
        """Until now; what a request waits for before it goes to the engine is part of it."""
        return max(1, round((time.monotonic() - self._begun) * 1e9))
