"""One request to a loaded model and its reply, the same for every wire: what is asked, timed and told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from narthex.outcomes import Outcome

OnToken = Callable[[int], None]
"""Called after each generated token with their number so far, from the stream's own thread."""
OnProgress = Callable[[float], None]
"""Called while the prompt is read, with its share done in 0…1."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What goes for every stream of one round.

    ``stall_s``: silence that counts as a stall; a server is silent while it computes one batch of the prompt,
    or all of it. ``timeout_s``: the longest that one answer may take, progress or not.
    """

    generate: int  # tokens
    stall_s: float
    timeout_s: float
    on_token: OnToken | None = None
    on_progress: OnProgress | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How one completion went. Rates are the engine's own; ``None`` where it did not get that far."""

    outcome: Outcome = Outcome.DONE
    error: str = ""  # the server's own words, or what happened to the connection
    lost: bool = False  # the connection ended early: ask the engine why
    seconds: float = 0.0
    ttft_s: float | None = None  # our clock: request sent → first token
    prompt_n: int = 0  # tokens computed
    cache_n: int = 0  # tokens taken from a cache: 0, or the figures mean nothing
    predicted_n: int = 0
    prompt_tps: float | None = None
    decode_tps: float | None = None
    longest_gap_s: float = 0.0  # between two events of the stream
    truncated: bool = False  # the engine cut the prompt
    refused_n: int | None = None  # tokens of a prompt that was refused as too long, where the server tells
    waited_s: float = 0.0  # behind other requests, ours or not, by the server's own account
    ended: bool = True  # False where the server broke off without a word, and so without figures
    doubts: tuple[str, ...] = ()

    @property
    def reading_s(self) -> float:
        """Seconds in which the prompt was computed."""
        return self.prompt_n / self.prompt_tps if self.prompt_tps else 0.0

    @property
    def context_n(self) -> int:
        """Tokens in the context at the end; 0 where the server told no figures."""
        return self.prompt_n + self.cache_n + self.predicted_n if self.prompt_n else 0


class Stopwatch:
    """Times one stream, and tells when a limit is passed.

    ``tells_progress``: whether the server says how far it has read; else its silence until the first token is
    the reading itself and no gap.
    """

    def __init__(self, request: Request, *, tells_progress: bool = True) -> None:
        self.generated = 0
        self._tells_progress = tells_progress
        self._request = request
        self._started = self._last = time.monotonic()
        self._first: float | None = None
        self._gap = 0.0

    def beat(self) -> None:
        """Something came."""
        now = time.monotonic()
        if self._tells_progress or self.generated:
            self._gap = max(self._gap, now - self._last)
        self._last = now

    def token(self) -> None:
        """A generated token came."""
        self._first = self._first or self._last
        self.generated += 1
        if self._request.on_token:
            self._request.on_token(self.generated)

    def over(self) -> tuple[Outcome, str] | None:
        """The limit that was passed, with words. Comment lines are signs of life, not progress."""
        now, request = time.monotonic(), self._request
        if now - self._last > request.stall_s:
            return Outcome.STALLED, f"the engine made no progress for {request.stall_s:.0f} s"
        if now - self._started > request.timeout_s:
            return Outcome.TIMEOUT, f"no end after {request.timeout_s:.0f} s"
        return None

    def silence(self) -> tuple[Outcome, str]:
        """The same where a read ended by the socket's own limit, the shorter of both."""
        request = self._request
        if request.timeout_s <= request.stall_s:
            return Outcome.TIMEOUT, f"no end after {request.timeout_s:.0f} s"
        return Outcome.STALLED, f"the engine sent nothing for {request.stall_s:.0f} s"

    def reply(self, outcome: Outcome = Outcome.DONE, error: str = "", *, lost: bool = False) -> Reply:
        """What is known now, by our clock alone."""
        now = time.monotonic()
        return Reply(
            outcome=outcome,
            error=error,
            lost=lost,
            seconds=now - self._started,
            ttft_s=self._first - self._started if self._first else None,
            predicted_n=self.generated,
            longest_gap_s=max(self._gap, now - self._last),
        )


def together(asks: Sequence[Callable[[], Reply]], cut: Callable[[], None]) -> list[Reply]:
    """Several requests at once, one thread each; their replies in order.

    ``cut`` ends the connections where the user does not want to wait any longer (Ctrl-C).
    """
    replies: list[Reply | None] = [None] * len(asks)

    def work(index: int) -> None:
        replies[index] = asks[index]()

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(asks))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        cut()
        raise
    gone = Reply(outcome=Outcome.REQUEST_FAILED, error="the stream's thread ended early", lost=True)
    return [reply or gone for reply in replies]
