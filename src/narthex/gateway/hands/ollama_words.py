"""``OllamaWords``: what a failure in Ollama is told as: by its answer, its log, and what the machine saw."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from narthex.engines.ollama import failures
from narthex.engines.ollama.records import ApiError
from narthex.engines.oom import oom_kills, oom_kills_since
from narthex.gateway.diagnosing import LOG_BYTES, diagnosed, of_another_file
from narthex.gateway.hands._held import free_bytes
from narthex.gateway.hands.ollama_api import unreachable
from narthex.gateway.hands.ollama_site import OllamaSite
from narthex.gateway.known_errors import absent_model
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.outcomes import Outcome

_T = TypeVar("_T")
_LOG_S = 1.0  # a reading of the log may take this long; then it is left out
_TURN_S = 60.0  # between two marks: an answer that failed is looked for in the log since the last but one
# What the connection's end alone proves; the log or the rules may know better.
_VAGUE = frozenset({Outcome.REQUEST_FAILED, Outcome.TIMEOUT})


@dataclass(frozen=True)
class Since:
    """A moment in the server's life, to tell afterwards what came since."""

    at: float
    mark: Any
    kills: int | None
    free_bytes: int | None


class OllamaWords:
    """Of one server. Nothing here raises: a log that can't be read is left out."""

    def __init__(self, site: OllamaSite) -> None:
        self._site = site
        self._marks: deque[Since] = deque(maxlen=2)

    async def now(self) -> Since:
        """This moment."""
        log = self._site.log
        mark = await _within(log.mark) if log is not None else None
        free = await asyncio.to_thread(free_bytes) if self._site.here else None
        return Since(time.monotonic(), mark, oom_kills(), free)

    async def begin(self) -> Since:
        """The moment at which a load begins; what fails later is looked for from there, too."""
        since = await self.now()
        self._marks.append(since)
        return since

    async def turn(self) -> None:
        """Called now and then: keeps a mark that is not old, so that a log of days is never read whole."""
        if not self._marks or time.monotonic() - self._marks[-1].at > _TURN_S:
            self._marks.append(await self.now())

    def refusal(self, error: ApiError) -> Trouble:
        """The server does not answer."""
        return unreachable(self._site.api.url, error.text)

    async def of_load(self, offer: Offer, error: ApiError, since: Since) -> Trouble:
        """Why a load failed that began then. What the log says of it is no cause of what fails later."""
        trouble = await self._trouble(offer, error, since, loaded=False)
        self._marks.clear()
        self._marks.append(await self.now())
        return trouble

    async def of_request(self, offer: Offer, error: ApiError) -> Trouble:
        """Why a request to a loaded model failed. It is about this request, so it is not remembered."""
        trouble = await self._trouble(offer, error, self._marks[0] if self._marks else None, loaded=True)
        trouble.lasting = False
        return trouble

    async def _trouble(self, offer: Offer, error: ApiError, since: Since | None, *, loaded: bool) -> Trouble:
        if error.lost or (error.status is None and not loaded):
            try:
                await self._site.api.version()
            except ApiError as down:
                return self.refusal(down)
        if error.status == 404:
            return absent_model(offer.model, error.text)
        refused = error.status is not None and 400 <= error.status < 500
        lines = await self._lines(since) if since is not None and not refused else []
        lines = [line for line in lines if not of_another_file(line, offer)]
        kills = oom_kills_since(since.kills) if since is not None and self._site.here else None
        failure = None if refused else failures.explain(error, lines, loaded=loaded, oom_kills=kills)
        log = [("ollama log", "\n".join(lines).encode()[-LOG_BYTES:])] if lines else []
        return await diagnosed(
            error.text,
            error.status,
            log,
            model=offer.name,
            offer=offer,
            outcome=failure.outcome if failure is not None and failure.outcome not in _VAGUE else None,
            requested_bytes=failure.requested_bytes if failure is not None else None,
            free_bytes=since.free_bytes if since is not None and not loaded else None,
        )

    async def _lines(self, since: Since) -> list[str]:
        log, mark = self._site.log, since.mark
        if log is None or mark is None:
            return []
        return await _within(lambda: log.since(mark)) or []


async def _within(call: Callable[[], _T]) -> _T | None:
    """From the log; None where that takes too long: an answer may not wait for a journal."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(call), _LOG_S)
    except TimeoutError:
        return None
