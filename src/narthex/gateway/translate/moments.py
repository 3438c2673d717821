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
        known = 0 < received <= now
        self._begun = received if known else now
        self._waited_ns = max(1, round((now - received) * 1e9)) if known else None

    def durations(self) -> dict[str, int]:
        """Ollama's fields. What a request waited for, a place at a loaded model, is the load; it is part of
        the total, and left out where it is not known."""
        told = {"total_duration": max(1, round((time.monotonic() - self._begun) * 1e9))}
        return told if self._waited_ns is None else {**told, "load_duration": self._waited_ns}
