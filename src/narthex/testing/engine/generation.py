"""``Generation``: one answer over time, with the fault that its prompt asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from narthex.testing.engine.answers import Script
from narthex.testing.engine.manner import Manner
from narthex.testing.engine.wire import Exchange

FAULTS = ("hang", "break", "error", "die", "abort", "oom")


class Engine(Protocol):
    """Who computes the answer."""

    def over(self, generation: Generation, how: str) -> None:
        """It ended: "done", "left" (the client went), "hang", or a fault's name."""
        ...

    def fail(self, generation: Generation, fault: str) -> None:
        """The engine's own end: "die", "abort" or "oom"."""
        ...


class Generation:
    """Begun with :meth:`start`. ``words`` are the prompt's: see ``manner.words_of``."""

    def __init__(
        self,
        exchange: Exchange,
        script: Script,
        engine: Engine,
        *,
        manner: Manner,
        words: Mapping[str, float],
        stream: bool,
        refused: Callable[[int], bytes],
    ) -> None:
        self.exchange, self.script, self.stream = exchange, script, stream
        self.words = words
        self._engine, self._refused = engine, refused
        self._first_s = words.get("first", manner.first_s)
        self._interval_s = words.get("interval", manner.interval_s)
        self._tokens = int(words.get("tokens", manner.tokens))
        self._fault = next((word for word in words if word in FAULTS), "")
        self._at = int(words[self._fault]) if self._fault else -1
        self._timer: asyncio.Handle | None = None
        self._over = False
        exchange.left = self._left

    def start(self) -> None:
        """The model begins to compute."""
        if "refuse" in self.words:
            self._reply(self._refused(int(self.words["refuse"]) or 500))
        elif self._first_s:
            self._timer = asyncio.get_running_loop().call_later(self._first_s, self._begin)
        else:
            self._begin()

    def broken(self, error: bytes) -> None:
        """The engine is gone: an error that fits, in the stream or as the answer."""
        if not self.exchange.open:
            return
        self._stop()
        if self.exchange.state == "streaming":
            self.exchange.end(self.script.error)
        else:
            self.exchange.reply(error)
        self._finish("broken")

    def _begin(self) -> None:
        if self.stream:
            # The first token lies between the request and its first byte, as with a real engine.
            if not (self._fault and self._at == 0):
                self.exchange.begin(self.script.head)
            self._step(0)
        elif self._interval_s or self._fault:
            count = self._at if self._fault else self._tokens
            delay = self._interval_s * count
            then = self._fails if self._fault else self._whole
            self._timer = asyncio.get_running_loop().call_later(delay, then)
        else:
            self._whole()

    def _step(self, number: int) -> None:
        if self._fault and number >= self._at:
            return self._fails()
        pieces = self.script.pieces
        if number == len(pieces) - 1:
            self.exchange.end(pieces[number])
            return self._finish("done")
        self.exchange.piece(pieces[number])
        loop = asyncio.get_running_loop()
        if self._interval_s:
            self._timer = loop.call_later(self._interval_s, self._step, number + 1)
        else:
            self._timer = loop.call_soon(self._step, number + 1)

    def _whole(self) -> None:
        self._reply(self.script.whole)

    def _reply(self, answer: bytes) -> None:
        self.exchange.reply(answer)
        self._finish("done")

    def _fails(self) -> None:
        fault = self._fault
        if fault == "hang":
            return  # until the client leaves
        if fault == "break":
            self.exchange.break_off()
        elif fault == "error":
            if self.exchange.state == "streaming":
                self.exchange.end(self.script.error)
            else:
                self.exchange.reply(self._refused(500))
        else:
            return self._engine.fail(self, fault)
        self._finish(fault)

    def _left(self) -> None:
        self._stop()
        self._finish("left")

    def _finish(self, how: str) -> None:
        if not self._over:
            self._over = True
            self._engine.over(self, how)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
