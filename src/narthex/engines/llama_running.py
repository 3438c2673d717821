"""``LlamaServer``: a llama-server that answers, and its end."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.engines._base import DeviceBuffers, Failure, LoadReport, StopReport
from narthex.engines.child import Child
from narthex.engines.companions import CompanionLog
from narthex.engines.llama_exit import explain_exit
from narthex.engines.oom import oom_kills_since
from narthex.host.facts import CardsBefore
from narthex.host.gpu import VramReturn, open_nvml
from narthex.outcomes import Outcome

STOP_S = 10.0  # SIGTERM until SIGKILL
LEAVE_S = 1.0  # the same where something went wrong or the user pressed Ctrl-C: no one waits for a last turn
DEATH_WAIT_S = 5.0
"""How long a lost connection waits for the engine's exit: a dying process writes its dump first."""


@dataclass(frozen=True)
class Before:
    """The machine before the start, to tell afterwards what changed."""

    kills: int | None
    cards: CardsBefore | None
    companions: tuple[CompanionLog, ...]

    def explain(self, child: Child, *, loaded: bool) -> Failure:
        """Why the child ended."""
        return explain_exit(
            child.output.tail() if loaded else child.output.head(),
            child.exit_code,
            loaded=loaded,
            oom_kills=oom_kills_since(self.kills),
            companions=self.companions,
        )


class LlamaServer:
    """A llama-server that answers. Leaving it as a context manager stops it."""

    wire = "llama-server"
    served_as = ""  # it has one model only

    def __init__(self, child: Child, url: str, log_path: Path, before: Before) -> None:
        self.url = url
        self.options: dict[str, Any] = {}  # all of them were given at the start
        self.log_path: Path | None = log_path
        self.load_s = 0.0
        self.ram_cache_bytes = 0  # it is started with --cache-ram 0
        self.report = LoadReport()
        self._child = child
        self._before = before
        self._stopped: StopReport | None = None

    @property
    def pid(self) -> int:
        """Of llama-server itself."""
        return self._child.pid

    @property
    def cards_before(self) -> CardsBefore | None:
        """The cards before the start, for :class:`narthex.host.sampler.Sampler`; None when it uses none."""
        return self._before.cards if self._gpu_buffers() else None

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._child.alive()

    def failure(self) -> Failure | None:
        """Why it ended; None while it runs, and after a :meth:`stop` that was asked for."""
        if self.alive() or self._stopped is not None:
            return None
        return self._before.explain(self._child, loaded=True)

    def explain(self, outcome: Outcome, words: str, *, lost: bool) -> Failure:
        """Why a request failed: the engine's own line where it died, else the words that the client saw.

        Waits for the exit where the connection was ``lost``.
        """
        if lost:
            deadline = time.monotonic() + DEATH_WAIT_S
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            if (failure := self.failure()) is not None:
                return failure
        elif outcome is Outcome.REQUEST_FAILED:
            # The server may live on after an allocation failed: the log tells more than the answer.
            seen = explain_exit(self.tail(60), None, loaded=True)
            if seen.outcome.is_memory:
                return seen
        return Failure(outcome=outcome, line=words)

    def tail(self, lines: int = 40) -> list[str]:
        """The newest lines of its output."""
        return self._child.output.tail(lines)

    def disturbed(self) -> str | None:
        """None: nobody else asks a server that narthex has started."""
        return None

    def stop(self, gentle_s: float = STOP_S) -> StopReport:
        """SIGTERM, then SIGKILL; returns once the process is gone and, on a GPU, its memory is back."""
        if self._stopped is None:
            self._stopped = self._stop(gentle_s)
        return self._stopped

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(LEAVE_S if any(exc) else STOP_S)

    def _stop(self, gentle_s: float) -> StopReport:
        start = time.monotonic()
        on_gpus = sum(row.model_bytes + row.context_bytes + row.compute_bytes for row in self._gpu_buffers())
        memory = VramReturn(self.pid, on_gpus, open_nvml()[0])
        gentle = self._child.end(gentle_s)
        return StopReport(
            exit_code=self._child.exit_code,
            gentle=gentle and self._child.exit_code != -signal.SIGKILL,
            seconds=time.monotonic() - start,
            vram_back=memory.is_back() if on_gpus else None,
        )

    def _gpu_buffers(self) -> list[DeviceBuffers]:
        """Of cards in this machine: neither main memory nor a remote device."""
        return [row for row in self.report.buffers if row.device != "Host" and "RPC" not in row.device]
