"""``RunningOllama``: a model that an Ollama has loaded for us, and how it is let go again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.engines._base import DeviceBuffers, Failure, LoadReport, StopReport
from narthex.engines.ollama.entries import Access, access_lines
from narthex.engines.ollama.failures import explain
from narthex.engines.ollama.log import RunnerCommand, is_start, last_load_command
from narthex.engines.ollama.logs import LogSource
from narthex.engines.ollama.options import command_options, describe_options
from narthex.engines.ollama.records import ApiError, Resident
from narthex.engines.ollama.served import LEAVE_S, WAIT_S, ServedModel, spoken
from narthex.engines.ollama.server_wide import prompt_cache_bytes
from narthex.engines.oom import oom_kills, oom_kills_since
from narthex.host.facts import CardsBefore
from narthex.host.gpu import VRAM_BACK_S
from narthex.host.processes import runs
from narthex.outcomes import Outcome

PROOF_S = 1.0  # a container's log and a journal are this late, at times
_LOOK_S = 0.1


@dataclass(frozen=True)
class LoadLog:
    """Where the lines of one load are, and of what came after it. ``source`` None: no log can be read."""

    source: LogSource | None
    path: Path | None  # our copy of them
    before: Any = None  # the mark before the load
    after: Any = None  # the mark once it was there

    def whole(self) -> list[str]:
        """From the start of the load until now."""
        return self.source.since(self.before) if self.source is not None else []

    def answers(self) -> list[str]:
        """What came after the load."""
        return self.source.since(self.after) if self.source is not None else []

    def copy(self) -> tuple[str, ...]:
        """Put the lines where the user can read them. A full disk is a gap in words and no failure."""
        if self.path is None or not (lines := self.whole()):
            return ()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(lines) + "\n")
        except OSError as error:
            return (f"Log: its copy {self.path} can't be written: {error.strerror or error}.",)
        return ()


class RunningOllama:
    """A loaded model that answers. Leaving it as a context manager unloads it."""

    wire = "ollama"

    def __init__(
        self,
        served: ServedModel,
        options: dict[str, Any],
        log: LoadLog,
        cards: CardsBefore | None,
    ) -> None:
        """Made once Ollama lists the model; the load's figures follow."""
        self.url = served.server.url
        self.served_as = served.name
        self.options = options
        self.log_gaps = log.copy()
        self.load_s = 0.0
        self.report = LoadReport()
        self.log_path = log.path
        self.ram_cache_bytes = prompt_cache_bytes(served.server.env, served.server.version)
        self.residents: tuple[Resident, ...] = ()  # all models, just after the load
        self._served = served
        self._log = log
        self._cards = cards
        self._here = served.server.place != "elsewhere"
        self._kills = oom_kills()
        self._pid = self._first_pid = served.pid()
        self._stopped: StopReport | None = None
        self._disturbed: str | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that computes; another one after somebody made Ollama load the model anew."""
        if self._first_pid is None:
            return None
        if self._pid is None or not runs(self._pid):
            self._pid = self._served.pid()
        return self._pid

    @property
    def cards_before(self) -> CardsBefore | None:
        """The cards before the load; None where it uses none, and for a server elsewhere."""
        return self._cards if self._gpu_buffers() else None

    def alive(self) -> bool:
        """Whether Ollama lists the model and, where it can be seen, its process lives: a killed one stays in
        Ollama's list until the next request."""
        try:
            listed = bool(self._served.loaded())
        except ApiError as error:
            return not error.lost  # a late answer is no death
        return listed and (self._first_pid is None or self.pid is not None)

    def failure(self) -> Failure | None:
        """Why it ended; None while it lives, and after a :meth:`stop` that was asked for."""
        if self._stopped is not None or self.alive():
            return None
        return self.explain(Outcome.RUNNER_DIED, "the process that computed for Ollama is gone", lost=True)

    def explain(self, outcome: Outcome, words: str, *, lost: bool) -> Failure:
        """Why a request failed. Where the connection was ``lost``, the server is looked at first; the log
        since the load may know better than the answer."""
        if lost and (down := self._server_down(words)):
            return down
        until = time.monotonic() + PROOF_S
        while True:
            lines = self._log.answers()
            kills = oom_kills_since(self._kills) if self._here else None
            failure = explain(None, lines, loaded=True, outcome=outcome, words=words, oom_kills=kills)
            if failure.outcome is not outcome or self._log.source is None or time.monotonic() > until:
                return failure
            time.sleep(_LOOK_S)

    def disturbed(self) -> str | None:
        """What other clients did to the measurement: they loaded the model anew, or another one beside it.

        None where nothing of the kind was seen.
        """
        if self._stopped is not None:
            return self._disturbed
        return self._by_log() or self._by_list()

    def tail(self, lines: int = 40) -> list[str]:
        """The newest lines of Ollama's log since the load began."""
        return self._log.whole()[-lines:]

    def stop(self, wait_s: float = WAIT_S) -> StopReport:
        """Unload it; returns once Ollama lists it no more, its process is gone and its memory is back."""
        if self._stopped is None:
            self._disturbed = self.disturbed()
            self._stopped = self._stop(wait_s)
        return self._stopped

    def __enter__(self) -> RunningOllama:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(LEAVE_S if any(exc) else WAIT_S)

    def _stop(self, wait_s: float) -> StopReport:
        begun = time.monotonic()
        on_gpus = sum(row.model_bytes + row.context_bytes + row.compute_bytes for row in self._gpu_buffers())
        memory = self._served.memory(on_gpus) if on_gpus else None
        try:
            gone = self._served.unload(wait_s=wait_s)
        except ApiError:
            gone = False
        self._log.copy()
        return StopReport(
            exit_code=None,
            gentle=gone,
            seconds=time.monotonic() - begun,
            vram_back=memory.is_back(VRAM_BACK_S if gone else 0.0) if memory is not None else None,
        )

    def _server_down(self, words: str) -> Failure | None:
        """Whether the server itself went away: it refuses connections, or it is a new one that has nothing
        loaded and never said why."""
        try:
            if self._served.loaded():
                return None
        except ApiError as error:
            if not error.lost:
                return None
            return Failure(
                outcome=Outcome.SERVER_DOWN, line=f"Ollama does not answer: {error.text}; {words}."
            )
        server = self._served.server.pid
        if server is not None and runs(server):
            return None
        return Failure(outcome=Outcome.SERVER_DOWN, line=f"Ollama was started anew: {words}.")

    def _by_log(self) -> str | None:
        lines = self._log.answers()
        starts = [index for index, line in enumerate(lines) if is_start(line)]
        mine = [index for index in starts if self._served.blob and self._served.blob in lines[index]]
        if mine:
            return self._anew(last_load_command(lines[mine[-1] :]))
        if starts:
            return "another model was loaded in the meantime"
        strangers = {line.client for line in _questions(lines)} - self._own_addresses(lines)
        return f"{', '.join(sorted(strangers))} asked this Ollama in the meantime" if strangers else None

    def _own_addresses(self, answers: Sequence[str]) -> set[str]:
        """As Ollama sees us: the one that asked while we loaded. All of them where its log does not tell."""
        whole = self._log.whole()
        during = {line.client for line in _questions(whole[: len(whole) - len(answers)])}
        return during if len(during) == 1 else {line.client for line in _questions(answers)}

    def _by_list(self) -> str | None:
        if self._first_pid is not None and self.pid is not None and self.pid != self._first_pid:
            return self._anew(self._served.command())
        try:
            now = self._served.api.ps()
        except ApiError:
            return None
        known = {resident.name: resident.context_length for resident in self.residents}
        for resident in now:
            if resident.name not in known:
                return f"{spoken(resident.name)} was loaded in the meantime"
            if resident.context_length != known[resident.name]:
                return f"{spoken(resident.name)} was loaded anew with num_ctx {resident.context_length}"
        return None

    def _anew(self, command: RunnerCommand | None) -> str:
        said = f"the model was loaded anew while it was measured ({spoken(self.served_as)}"
        if command is None:
            return f"{said})"
        return f"{said}: {describe_options(command_options(command))})"

    def _gpu_buffers(self) -> list[DeviceBuffers]:
        """Of cards in this machine: neither main memory nor a remote device."""
        return [row for row in self.report.buffers if row.device != "Host" and "RPC" not in row.device]


def _questions(lines: Sequence[str]) -> list[Access]:
    """The requests that made the model compute or load."""
    paths = ("/api/generate", "/api/chat", "/api/embed", "/v1/")
    return [line for line in access_lines(lines) if line.method == "POST" and line.path.startswith(paths)]
