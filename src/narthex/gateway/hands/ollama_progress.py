"""``LoadWatch``: does a load in Ollama still move? Ollama itself is silent until it is done.

On this machine the runner's own work tells: CPU time, pages and bytes read. The list of loaded models tells
of others that come and go before it. Nothing else is known of an Ollama elsewhere, so there only the time
counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from narthex.engines.ollama import processes
from narthex.engines.ollama.logs import FileLog
from narthex.engines.ollama.records import Resident, Server
from narthex.engines.stall import Pace
from narthex.host.processes import work_done

BEHIND_S = 300.0
"""How long the work of other runners counts as progress of a load that has none yet: it may wait for an
answer of theirs to end. A scheduler that is wedged waits for ever."""
_REQUESTS = "[GIN]"  # lines about requests, our own questions among them


class LoadWatch:
    """One load. ``look`` is called again and again; it blocks for some milliseconds: use a thread."""

    def __init__(self, server: Server | None, blob: str | None, log: FileLog | None) -> None:
        self._server = server.pid if server is not None and server.place != "elsewhere" else None
        self._blob, self._log = blob, log
        self._mark = log.mark() if log is not None else None
        self._begun = self._moved = time.monotonic()
        self._last: object = None
        self._pace, self._steps = Pace(), 0
        self.pid: int | None = None  # of the load's own runner, once it is there

    @property
    def blind(self) -> bool:
        """Whether nothing of the load can be seen from here."""
        return self._server is None and self._log is None

    @property
    def waits_behind(self) -> bool:
        """Whether no runner of its own was seen so far."""
        return self.pid is None

    def look(self, residents: Sequence[Resident] | None) -> float:
        """Seconds without any sign of progress. ``residents`` None: the list could not be read."""
        now = time.monotonic()
        seen = (self._listed(residents), self._worked(now), self._written())
        if seen != self._last:
            self._last, self._moved = seen, now
        return now - self._moved

    def _listed(self, residents: Sequence[Resident] | None) -> object:
        if residents is None:
            return self._last[0] if isinstance(self._last, tuple) else None
        return tuple(sorted((one.name, one.context_length or 0) for one in residents))

    def _worked(self, now: float) -> object:
        if self._server is None:
            return None
        if self._blob:
            self.pid = processes.runner_pid(self._blob, self._server)
        if self.pid is not None:
            self._steps += self._pace.moved(self.pid, now)
            return self.pid, self._steps
        others = processes.runner_pids(self._server)
        if now - self._begun > BEHIND_S:
            return tuple(others)
        return tuple((pid, work_done(pid)) for pid in others)

    def _written(self) -> int:
        """Lines of Ollama's log about anything but requests."""
        if self._log is None or self._mark is None:
            return 0
        return sum(not line.startswith(_REQUESTS) for line in self._log.since(self._mark))
