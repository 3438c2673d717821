"""``Clock``: the time limits of one exchange, on one timer."""

from __future__ import annotations

import asyncio
from types import TracebackType

from narthex.gateway.relay.timeouts import Timeouts
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration

_SLACK = 1.25
"""The timer is set anew only where it would ring too early; so «between» may ring by a quarter late."""


class Clock:
    """Raises TimeoutError out of its block. ``sending``: it is the client that is waited for."""

    __slots__ = ("_began", "_limit", "_loop", "_set", "_stage", "_times", "sending")

    def __init__(self, times: Timeouts) -> None:
        self._loop = asyncio.get_running_loop()
        self._times = times
        self._began = self._loop.time()
        self._stage = "first_byte"
        self._limit = asyncio.timeout_at(self._at(times.first_byte_s))
        self._set = False
        self.sending = False

    async def __aenter__(self) -> Clock:
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._limit.__aexit__(kind, error, trace)

    def first_byte(self) -> float:
        """The first byte came: seconds since the beginning."""
        self._stage = "between"
        return self._loop.time() - self._began

    def moved(self) -> None:
        """A piece came, and another is awaited."""
        rings = self._limit.when() if self._set else None
        if rings is None or rings < self._at(self._times.between_s):
            self._limit.reschedule(self._at(self._times.between_s * _SLACK))
            self._set = True

    def trouble(self, model: str) -> Trouble:
        """After it rang: which limit it was."""
        total, rang = self._times.total_s, self._limit.when()
        if total is not None and rang is not None and rang >= self._began + total:
            return Trouble(
                504,
                "answer_too_long",
                f"«{model}» had not ended its answer after {format_duration(total)}.",
                remedy="Ask for a shorter answer, or set total in [gateway] of narthex.toml.",
            )
        if self._stage == "between":
            return Trouble(
                504,
                "answer_stalled",
                f"«{model}» stopped in the middle of its answer: "
                f"nothing came for {format_duration(self._times.between_s)}.",
                remedy="Ask again; between in [gateway] of narthex.toml sets the time.",
            )
        return Trouble(
            504,
            "no_first_token",
            f"«{model}» gave no answer within {format_duration(self._times.first_byte_s)}.",
            remedy="Ask for less at once, or set first_token in [gateway] of narthex.toml.",
        )

    def _at(self, seconds: float) -> float:
        """In so many seconds, or at the end of the total."""
        at = self._loop.time() + seconds
        return at if self._times.total_s is None else min(at, self._began + self._times.total_s)
