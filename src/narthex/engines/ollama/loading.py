"""``OllamaLoader``: one model, loaded anew in an Ollama for each setting, judged by answer and log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from narthex import settings
from narthex.engines._base import Engine, Failure, LaunchFailed, LoadReport, Watch
from narthex.engines.ollama import notes
from narthex.engines.ollama.applied import differences, settled_ctx
from narthex.engines.ollama.discovery import look_again
from narthex.engines.ollama.eras import has, since
from narthex.engines.ollama.failures import explain
from narthex.engines.ollama.log import RunnerCommand, is_start, last_load_command, parse_load
from narthex.engines.ollama.logs import LogSource, open_log
from narthex.engines.ollama.options import against_parameters, options_for, parameters_of, unloadable
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.running import LoadLog, RunningOllama
from narthex.engines.ollama.served import LEAVE_S, LOAD_S, ServedModel, processor, spoken
from narthex.engines.ollama.server_wide import variant_of
from narthex.engines.oom import oom_kills, oom_kills_since
from narthex.errors import EngineError
from narthex.host.facts import CardsBefore
from narthex.host.gpu import cards_before
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome

KEEP_S = 3600  # a trial's idle moments are short; a narthex that was killed must not pin the model for ever
_COME_BACK_LOOK_S = 0.5
LOG_S = 1.0  # a container's log and a journal are this late, at times
QUEUE_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between the tries while Ollama's queue is full
_LOOK_S = 0.05
_ENDED = re.compile(r'msg="(?:loaded runners|Load failed|llama-server started|llama runner started)')


class OllamaLoader:
    """The :class:`narthex.engines._base.Loader` of Ollama."""

    def __init__(
        self,
        server: Server,
        engine: Engine,
        model: str,
        *,
        blob: str | None,
        log_dir: Path,
        bare: bool = False,
    ) -> None:
        """``blob``: digest of the model's GGUF file where it is known. ``log_dir`` gets the log of each load.

        ``bare``: no options at all are sent; to prove a tuned model, which carries them itself. Raises
        EngineError for an Ollama that can't list its loaded models.
        """
        if not has(server.version, "ps"):
            raise EngineError(
                f"This Ollama is {server.version}; narthex needs {since('ps')} or later.",
                hint="Update Ollama: its models stay as they are.",
            )
        self.engine = engine
        self.server = server
        self._served = ServedModel(server, model, blob)
        self._log = open_log(server)
        self._log_dir = log_dir
        self._bare = bare

    def load(self, knobs: KnobValues, watch: Watch) -> RunningOllama:
        """The model, loaded anew with these knobs. Raises LaunchFailed; then nothing of it is loaded."""
        if not self._bare and (why := unloadable(knobs, self.engine.limits)):
            failure = Failure(outcome=Outcome.UNSUPPORTED_SETTING, line=why)
            raise LaunchFailed(failure, None, 0.0)
        attempt = _Attempt(self._served, self._log, self._log_dir, knobs, self._bare, watch)
        try:
            return attempt.run()
        except BaseException:
            attempt.leave()
            raise

    def came_back(self, watch: Watch) -> bool:
        """Wait for a server that went away, as long as the setting «ollama_wait» says. False where it stays
        away, or comes back with another version or other settings: that would be another engine."""
        until = time.monotonic() + settings.get("ollama_wait")
        while True:
            watch("waiting for Ollama", None)
            try:
                found = look_again(self.server)
            except ApiError:
                if time.monotonic() > until:
                    return False
                time.sleep(_COME_BACK_LOOK_S)
                continue
            if other := self._other(found):
                watch(f"Ollama came back {other}", None)
                return False
            self.server = found  # another process, which may write another log
            self._served = ServedModel(found, self._served.name, self._served.blob)
            self._log = open_log(found)
            return True

    def _other(self, found: Server) -> str:
        """What makes a server another engine than before; "" where it is the same."""
        if found.version != self.server.version:
            return f"as version {found.version}"
        variant = variant_of(found.env, found.version)
        if found.env_source and self.server.env_source and variant != self.engine.variant:
            return f"with other settings: {variant or 'the defaults'}"
        return ""


@dataclass
class _Attempt:
    """One load, from the unload before it to the judgement."""

    served: ServedModel
    source: LogSource | None
    log_dir: Path
    knobs: KnobValues
    bare: bool
    watch: Watch
    begun: float = field(default_factory=time.monotonic)
    log: LoadLog = field(default_factory=lambda: LoadLog(None, None))
    kills: int | None = field(default_factory=oom_kills)
    asked: bool = False  # whether Ollama may have begun to load

    def run(self) -> RunningOllama:
        """A loaded model. Raises LaunchFailed."""
        beside = self._unload_first()
        options = self._options()
        cards = cards_before() if self.served.server.place != "elsewhere" else None
        self.log = self._new_log()
        self.begun = time.monotonic()
        self._preload(options)
        load_s = time.monotonic() - self.begun
        lines = self._lines_of_the_load()
        residents = self._residents()
        resident = next((one for one in residents if self.served.is_same(one)), None)
        if resident is None:
            words = "Ollama said that the model is loaded, and does not list it"
            raise self._failed(None, Outcome.RUNNER_DIED, words)
        running = self._running(options, cards)
        running.load_s, running.residents = load_s, residents
        beside_it = self._neighbours(beside, residents)
        running.report = self._report(lines, resident, [*running.log_gaps, *beside_it])
        return running

    def leave(self) -> None:
        """After a failure or Ctrl-C: nothing may stay. A connection that was closed has ended the load; one
        that was just done is unloaded."""
        if not self.asked:
            return
        try:
            self.served.unload(wait_s=LEAVE_S)
        except ApiError:
            return

    def _unload_first(self) -> tuple[Resident, ...]:
        """A load begins without the model: Ollama keeps an old num_gpu where a request names none. Returns
        the other models that are loaded."""
        try:
            memory = self.served.memory(0) if self.served.loaded() else None
            gone = self.served.unload(tick=self._tick("unloading"))
            if memory is not None and gone:
                memory.is_back()
            residents = self.served.api.ps()
        except ApiError as error:
            raise self._failed(error, Outcome.REQUEST_FAILED, error.text) from error
        if not gone:
            words = "the model stays loaded: another client keeps it busy, or loads it again and again"
            raise self._failed(None, Outcome.STALLED, words)
        return residents

    def _options(self) -> dict[str, Any]:
        if self.bare:
            return {}
        options = options_for(self.knobs, self.served.server.version, parallel=self.knobs.parallel)
        try:
            own = parameters_of(self.served.api.show(self.served.name).parameters)
        except ApiError as error:
            raise self._failed(error, Outcome.REQUEST_FAILED, error.text) from error
        return against_parameters(options, own, self.knobs)

    def _preload(self, options: dict[str, Any]) -> None:
        """Returns once Ollama says that it is loaded; waits and asks again while its queue is full."""
        self.watch("loading", None)
        notes.add_ours(self.served.server.url, self.served.name, self.served.server.pid)
        self.asked = True
        pauses = iter(QUEUE_PAUSES_S)
        while True:
            try:
                self.served.api.preload(
                    self.served.name,
                    options or None,
                    keep_alive=KEEP_S,
                    timeout_s=LOAD_S,
                    waiting=self._tick("loading"),
                )
            except ApiError as error:
                pause = next(pauses, None) if error.status == 503 else None
                if pause is None:
                    outcome = Outcome.REQUEST_FAILED if error.status or error.lost else Outcome.TIMEOUT
                    raise self._failed(error, outcome, error.text) from error
                self._pause(pause, self._tick("waiting in Ollama's queue"))
            else:
                return

    def _running(self, options: dict[str, Any], cards: CardsBefore | None) -> RunningOllama:
        after = self.source.mark() if self.source is not None else None
        log = LoadLog(self.source, self.log.path, self.log.before, after)
        return RunningOllama(self.served, options, log, cards)

    def _report(self, lines: Sequence[str], resident: Resident, gaps: Sequence[str]) -> LoadReport:
        version = self.served.server.version
        command = self._command(lines)
        report = parse_load(lines, version) if lines else LoadReport()
        report = msgspec.structs.replace(
            report,
            num_ctx=settled_ctx(report, command, resident),
            ubatch=report.ubatch or (command.ubatch if command else None),
            processor=processor(resident),
        )
        told = differences(self.knobs, report, command, lines, version)
        unread = () if lines else (self._unread(),)
        return msgspec.structs.replace(report, gaps=(*report.gaps, *unread, *told, *gaps))

    def _command(self, lines: Sequence[str]) -> RunnerCommand | None:
        """What the runner was really started with; a model without a blob is known by the log alone."""
        return self.served.command(lines) or (last_load_command(lines) if not self.served.blob else None)

    def _unread(self) -> str:
        problem = self.source.problem if self.source is not None else ""
        why = problem or (
            "it has no lines of the load" if self.source is not None else "it is not known where"
        )
        return f"Log: Ollama's log can't be read ({why}); the load is judged by its API alone."

    def _neighbours(self, before: Sequence[Resident], after: Sequence[Resident]) -> Sequence[str]:
        kept = {resident.name for resident in after}
        known = {resident.name for resident in before}
        gone = [f"Beside it: Ollama unloaded {spoken(name)} to make room." for name in known - kept]
        there = [
            f"Beside it: {spoken(resident.name)} is loaded too and takes its share of the machine."
            for resident in after
            if not self.served.is_same(resident)
        ]
        return [*sorted(gone), *there]

    def _residents(self) -> tuple[Resident, ...]:
        try:
            return self.served.api.ps()
        except ApiError as error:
            raise self._failed(error, Outcome.REQUEST_FAILED, error.text) from error

    def _failed(self, error: ApiError | None, outcome: Outcome, words: str) -> LaunchFailed:
        """With the line that proves it, once the log has it."""
        if error is not None and error.lost:
            outcome = Outcome.SERVER_DOWN
        lines = self._lines_of_the_load() if self.asked else []
        self.log.copy()
        here = self.served.server.place != "elsewhere"
        kills = oom_kills_since(self.kills) if here else None
        failure = explain(error, lines, loaded=False, outcome=outcome, words=words, oom_kills=kills)
        return LaunchFailed(failure, self.log.path, time.monotonic() - self.begun)

    def _lines_of_the_load(self) -> list[str]:
        """The log's lines since the mark, once they hold the end of the load."""
        if self.source is None:
            return []
        until = time.monotonic() + LOG_S
        while True:
            lines = self.log.whole()
            last = max((index for index, line in enumerate(lines) if is_start(line)), default=None)
            if last is not None and any(_ENDED.search(line) for line in lines[last:]):
                return lines
            if time.monotonic() > until:
                return lines
            time.sleep(_LOOK_S)

    def _new_log(self) -> LoadLog:
        if self.source is None:
            return LoadLog(None, None)
        name = re.sub(r"[^0-9A-Za-z.-]+", "-", spoken(self.served.name))
        stem = f"ollama-{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        path = next(
            free
            for number in range(1, 1000)
            if not (free := self.log_dir / f"{stem}{f'-{number}' if number > 1 else ''}.log").exists()
        )
        return LoadLog(self.source, path, self.source.mark())

    def _tick(self, stage: str) -> Callable[[], None]:
        return lambda: self.watch(stage, None)

    def _pause(self, seconds: float, tick: Callable[[], None]) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            tick()
            time.sleep(min(0.25, left))
