"""``StudyLease``: the card for a study alone, for as long as it says that it lives.

``narthex tune`` and the like measure how fast a model is and how much memory it takes, which nobody else may
disturb. A study asks for the lease and is answered once all answers under way have ended and all models are
unloaded; then it says every few seconds that it still runs. One that was killed says nothing, and the card
is free again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from narthex import __version__
from narthex.gateway.admission import Admission, Place
from narthex.gateway.ask import Rank
from narthex.gateway.body import UNREADABLE
from narthex.gateway.door.door import read_body
from narthex.gateway.hands.study import KEY
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration

PATH = "/narthex/lease"
TTL_S = 15.0  # after the last word of the study
BEAT_S = 5.0  # so often one that waits hears what for
AT_ONCE_S = 0.05  # what comes within this time needs no words
WAIT_S = 600.0  # it waits so long, unless it says otherwise
OVERDUE_S = 30.0  # what is left of a study that should have ended
UNKNOWN_RETRY_S = 60.0
MOST_S = 30 * 86400.0  # no study takes longer, and no clock of the event loop reaches for ever
_NAME_LENGTH = 64  # letters kept of what a study calls itself
BODY_BYTES = 64 << 10
_LINES = "application/x-ndjson"

Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]
_Body = TypeVar("_Body", bound=msgspec.Struct)


class Wish(msgspec.Struct, kw_only=True):
    """The body of a request for the lease. ``eta_s``: seconds that the study takes, None where unknown."""

    who: str
    eta_s: float | None = None
    wait_s: float = WAIT_S


class Renewal(msgspec.Struct, kw_only=True):
    """The study still runs; ``eta_s`` as it is now."""

    lease: str
    eta_s: float | None = None


class Return(msgspec.Struct, kw_only=True):
    """The study has ended."""

    lease: str


@dataclass(eq=False)
class _Held(Generic[Place]):
    token: str
    who: str
    place: Place
    since: float
    until: float | None
    timer: asyncio.TimerHandle | None = None


class StudyLease(Generic[Place]):
    """One card's. ``busy`` names what has to end first, for the study's own screen; ``ollama`` is where a
    study measures, "" without one."""

    def __init__(
        self,
        admission: Admission[Place],
        *,
        busy: Callable[[], Sequence[str]] = tuple,
        ollama: str = "",
        ttl_s: float = TTL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self._admission, self._busy, self.ollama = admission, busy, ollama
        self._ttl_s, self._beat_s = ttl_s, beat_s
        self._held: _Held[Place] | None = None
        self._loop = asyncio.get_running_loop()

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Its paths, for the gateway's table."""
        return {
            ("GET", PATH): self._tell,
            ("POST", PATH): self._take,
            ("POST", f"{PATH}/renew"): self._renew,
            ("POST", f"{PATH}/release"): self._release,
        }

    # for those who ask for a model

    def check(self, wait_s: float) -> None:
        """Whether a request that may wait so long has a chance. Raises Trouble 503 where a study goes on for
        longer, or does not know how long."""
        held = self._held
        if held is None:
            return
        left = self._left_s(held)
        if left is not None and left <= wait_s:
            return
        words = "for a time that it does not know yet"
        if left is not None:
            words = f"for about {format_duration(left)} more; this request may wait {format_duration(wait_s)}"
        raise Trouble(
            503,
            "study_running",
            f"«{held.who}» has the card {words}.",
            remedy="Ask again then.",
            retry_after_s=UNKNOWN_RETRY_S if left is None else left,
            figures={"who": held.who, "eta_s": left},
        )

    def state(self) -> dict[str, Any]:
        """Who has it and for how long, as GET tells it."""
        held = self._held
        return {
            "narthex": __version__,
            "ollama": self.ollama,
            "held": held is not None,
            "who": held.who if held else "",
            "since_s": self._loop.time() - held.since if held else None,
            "eta_s": self._left_s(held) if held else None,
        }

    def close(self) -> None:
        """Give it back."""
        if self._held is not None:
            self._end(self._held, "narthex is being stopped")

    # its paths

    async def _tell(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        return _answer(self.state())

    async def _take(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        """JSON lines: «waiting» as long as it has to, then «granted» or «refused»."""
        wish = await _read(request, Wish)
        who = "".join(letter for letter in wish.who if letter.isprintable())[:_NAME_LENGTH]
        wait_s = min(max(0.0, wish.wait_s), MOST_S)
        answer = web.StreamResponse(headers={"Content-Type": _LINES})
        await answer.prepare(request)
        asked = self._loop.create_task(
            self._admission.acquire([KEY], rank=Rank.INTERACTIVE, client=who, wait_s=wait_s)
        )
        try:
            await asyncio.wait((asked,), timeout=AT_ONCE_S)
            while not asked.done():
                await answer.write(_line({"state": "waiting", "for": list(self._words())}))
                await asyncio.wait((asked,), timeout=self._beat_s)
            held = self._begin(who, wish.eta_s, asked.result())
        except Trouble as trouble:
            await answer.write(_line({"state": "refused", "cause": trouble.cause, "error": trouble.text}))
        except BaseException:  # whoever asked is gone
            await self._forget(asked)
            raise
        else:
            try:
                granted = {"state": "granted", "lease": held.token, "ttl_s": self._ttl_s}
                await answer.write(_line(granted))
            except BaseException:
                self._end(held, "the study left before it had the card")
                raise
        await answer.write_eof()
        return answer

    async def _renew(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        renewal = await _read(request, Renewal)
        held = self._held
        if held is None or not secrets.compare_digest(held.token.encode(), renewal.lease.encode()):
            raise Trouble(
                410,
                "lease_ended",
                f"This lease has ended: nothing was heard of its study for {self._ttl_s:g} s.",
                remedy="Ask for another.",
            )
        self._alive(held, renewal.eta_s)
        return _answer({"state": "granted", "ttl_s": self._ttl_s})

    async def _release(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        given = await _read(request, Return)
        held = self._held
        if held is not None and secrets.compare_digest(held.token.encode(), given.lease.encode()):
            self._end(held, "the study ended")
        return _answer({"state": "free"})

    # its life

    def _begin(self, who: str, eta_s: float | None, place: Place) -> _Held[Place]:
        held = self._held = _Held(secrets.token_hex(16), who, place, self._loop.time(), None)
        self._alive(held, eta_s)
        return held

    def _alive(self, held: _Held[Place], eta_s: float | None) -> None:
        now = self._loop.time()
        held.until = None if eta_s is None else now + min(max(0.0, eta_s), MOST_S)
        if held.timer is not None:
            held.timer.cancel()
        held.timer = self._loop.call_at(
            now + self._ttl_s, self._end, held, "nothing was heard of the study any more"
        )

    def _end(self, held: _Held[Place], why: str) -> None:
        if held.timer is not None:
            held.timer.cancel()
        if self._held is held:
            self._held = None
            self._admission.release(held.place)
            self._admission.let_go(KEY, why)

    async def _forget(self, asked: asyncio.Task[Place]) -> None:
        """Leave the queue; a place that was given in the same moment goes back."""
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError, Trouble):
            self._admission.release(await asked)

    def _left_s(self, held: _Held[Place]) -> float | None:
        return None if held.until is None else max(OVERDUE_S, held.until - self._loop.time())

    def _words(self) -> Sequence[str]:
        return [f"«{self._held.who}»"] if self._held is not None else self._busy()


async def _read(request: web.BaseRequest, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(await read_body(request, BODY_BYTES), type=kind)
    except UNREADABLE as error:
        raise Trouble(
            400,
            "bad_request",
            f"This is no body of a request for the lease: {error}.",
            remedy='Send JSON, as {"who": "narthex tune", "eta_s": 600}.',
        ) from None


def _line(found: dict[str, Any]) -> bytes:
    return msgspec.json.encode(found) + b"\n"


def _answer(found: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(found), headers={"Content-Type": "application/json"})
