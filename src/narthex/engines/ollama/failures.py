"""Why a load or a request failed in Ollama: one typed outcome, with the line of the log or the words of the
API that prove it.

What the API answers and what the log says go together: the answer may be empty where the log tells all, and
the log knows nothing of a full queue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http.client import INTERNAL_SERVER_ERROR

from narthex.engines._base import Failure
from narthex.engines.llama_exit import clean, known_failure, memory_failure, telling_line
from narthex.engines.ollama.entries import Entry, entries, raw_lines
from narthex.engines.ollama.log import last_load
from narthex.engines.ollama.records import ApiError
from narthex.outcomes import Outcome

_BLOB_GONE = re.compile(r"sha256[-:][0-9a-f]{64}: (?:no such file|The system cannot find)")

# Answers that are about the request itself; the log adds nothing to them.
_ANSWERS: tuple[tuple[Outcome, re.Pattern[str]], ...] = (
    (Outcome.QUEUE_FULL, re.compile(r"maximum pending requests exceeded|server busy, please try again")),
    (
        Outcome.PROMPT_TRUNCATED,
        re.compile(
            r"exceeds the available context size|prompt is longer than the context length"
            r"|input (?:length )?exceeds (?:the )?(?:maximum )?context length|exceed_context_size"
        ),
    ),
    (Outcome.UNSUPPORTED_SETTING, re.compile(r'option "?\w+"? must be of type')),
    (
        Outcome.MODEL_UNKNOWN,
        re.compile(r"model ['\"].*['\"] not found|invalid model name|pull model manifest"),
    ),
)
# Ollama's own words, in an answer or in its log, whatever else the log holds.
_OWN: tuple[tuple[Outcome, re.Pattern[str]], ...] = (
    (Outcome.DISK_FULL, re.compile(r"no space left on device|not enough space on the disk", re.IGNORECASE)),
    (
        Outcome.HOST_OUT_OF_MEMORY,
        re.compile(r"requires more system memory|model request too large for system"),
    ),
)
# The same, where no allocation failed.
_OWN_LATER: tuple[tuple[Outcome, re.Pattern[str]], ...] = (
    (
        Outcome.OUT_OF_MEMORY,
        re.compile(
            r"memory layout cannot be allocated|unable to load full model on GPU|runtime OOM detected"
            # What Ollama itself takes for missing memory. Pinned memory falls back to ordinary memory.
            r"|^(?!.*pinned memory).*(?:out of (?:device )?memory|failed to allocate|allocation failed"
            r"|(?:not enough|insufficient) memory|(?:cuda|hip)malloc failed|erroroutofmemory)",
            re.IGNORECASE,
        ),
    ),
    (
        Outcome.CLIENT_GONE,
        re.compile(
            r"client connection closed before \S*\s?server finished loading"
            r"|timed out waiting for .* to start: context canceled|^request canceled$"
        ),
    ),
    (Outcome.LOAD_TIMEOUT, re.compile(r"timed out waiting for (?:llama-server|llama runner)\b.* to start")),
    (Outcome.FILE_MISSING, _BLOB_GONE),
    (
        Outcome.CORRUPT_FILE,
        re.compile(
            r"invalid file magic|unsupported version \d|not in GGUF format|exceeds file size|digest mismatch"
        ),
    ),
    (Outcome.FAILED, re.compile(r"error starting (?:llama-server|runner)|no suitable llama servers found")),
)
# A 500 with these words is about the model's manifest: of a request, broken JSON is a 400.
_MANIFEST = re.compile(r"invalid character .* looking for|unexpected end of JSON input")
# What Ollama says of a load or a runner, and not of other clients' downloads, or of models that it lists.
_VERDICT = re.compile(
    r"Load failed|error loading llama server|NewLlamaServer failed|failed to create server"
    r"|failed to load model metadata|model request too large|client connection closed before|runtime OOM"
    r"|no longer running|post predict|truncating input prompt"
)
_TRUNCATED = "truncating input prompt"
_MAY_BE_TRUNCATION = (Outcome.REQUEST_FAILED, Outcome.PROMPT_TRUNCATED)
_SIGNAL = re.compile(r"signal: (\w+(?: \w+)?)|\bsys=(\d+)")
_KILLED = re.compile(r"signal: killed|\bsys=9\b")
_RUNNER_DIED = re.compile(
    r"unexpectedly stopped|no longer running|unexpected EOF|\bEOF$|EOF\"$|has terminated|forcibly closed"
    r"|connection reset by peer|model failed to load|post predict|POST predict"
)
# systemd writes it into a unit's journal, the kernel into its own.
_OOM_KILLER = re.compile(r"killed by the OOM killer|result 'oom-kill'|[Oo]ut of memory: Killed process")
_CRASH = re.compile(r"signal: |exit status 0x[cC]|GGML_ASSERT|(?:CUDA|ROCm|MUSA) error|panic\b")
_CAUSE = re.compile(
    r"Remote RPC server crashed|GGML_ASSERT|(?:CUDA|ROCm|MUSA) error: |panic\b|terminate called"
)
_PREFIX = re.compile(r"^.*has terminated: (?:exit status \d+: )?")
# gdb, where it is installed, prints a trace into the log when ggml aborts.
_DEBUGGER = re.compile(
    r"\.[ch]: No such file or directory|\bin \.\./|^\[(?:New|Thread|Inferior) |libthread_db"
    r"|^#\d+ |^0x[0-9a-f]+ in "
)


def explain(
    error: ApiError | None,
    lines: Sequence[str],
    *,
    loaded: bool,
    outcome: Outcome = Outcome.REQUEST_FAILED,
    words: str = "",
    oom_kills: int | None = None,
) -> Failure:
    """The failure behind an answer.

    ``error`` is the API's, or None where ``words`` hold what was seen instead. ``lines`` of the log begin
    with the request or its load. ``loaded``: the model had been loaded before, so memory that is missing is
    missing for computing. ``outcome`` stands where neither proves anything else. ``oom_kills`` is how many
    processes the kernel's oom-killer ended meanwhile on the server's machine, None where that is not known.
    """
    text = error.text if error else words
    case = _Case(text, lines, loaded)
    failure = case.answer(error.status if error else None) or case.own(_OWN) or case.memory() or case.kernel()
    if failure is None and not (error and error.lost):
        # Of a server that is down this would prove nothing: when it stops it kills its runners and loads.
        failure = case.own(_OWN_LATER) or case.engine() or case.death(oom_kills)
    if failure is None and error is None and outcome in _MAY_BE_TRUNCATION:
        failure = case.truncation()
    return failure or Failure(
        outcome=_by_connection(error) if outcome is Outcome.REQUEST_FAILED else outcome,
        line=_first_line(text) or "Ollama said nothing.",
    )


class _Case:
    """One failure: the words of the answer, and what the log says of the last load or since."""

    def __init__(self, text: str, lines: Sequence[str], loaded: bool) -> None:
        recent = last_load(lines)
        self.loaded = loaded
        self.text = text
        self.words = [_PREFIX.sub("", line) for line in text.splitlines() if line.strip()]
        self.raw = [line for line in raw_lines(recent) if not _DEBUGGER.search(line)]
        # «llama-server terminated … signal: killed» is none of them: ordinary unloads write it, too.
        self.entries = [entry for entry in entries(recent) if _VERDICT.search(entry.msg)]

    def answer(self, status: int | None) -> Failure | None:
        """What the answer says of the request itself."""
        for outcome, pattern in _ANSWERS:
            if not pattern.search(self.text):
                continue
            gone = next((entry for entry in self.entries if _BLOB_GONE.search(_error(entry))), None)
            if outcome is Outcome.MODEL_UNKNOWN and gone:
                return Failure(outcome=Outcome.FILE_MISSING, line=clean(gone.line))
            return Failure(outcome=outcome, line=_first_line(self.text))
        if status == INTERNAL_SERVER_ERROR and _MANIFEST.match(self.text):
            return Failure(outcome=Outcome.CORRUPT_FILE, line=f"the model's manifest: {self.text}")
        return None

    def own(self, table: tuple[tuple[Outcome, re.Pattern[str]], ...]) -> Failure | None:
        """What Ollama itself says, first in its answer, then in its log."""
        for outcome, pattern in table:
            line = next((line for line in self.words if pattern.search(line)), None) or next(
                (
                    entry.line
                    for entry in self.entries
                    if pattern.search(entry.msg) or pattern.search(_error(entry))
                ),
                None,
            )
            if line is None:
                continue
            computing = outcome is Outcome.OUT_OF_MEMORY and self.loaded
            return Failure(outcome=Outcome.OUT_OF_MEMORY_COMPUTE if computing else outcome, line=clean(line))
        return None

    def memory(self) -> Failure | None:
        """A failed allocation, by the engine's own line."""
        errors = [line for entry in self.entries for line in _error(entry).splitlines()]
        for lines in (self.raw, self.words, errors):
            if (failure := memory_failure(lines, loaded=self.loaded)) is not None:
                return failure
        return None

    def kernel(self) -> Failure | None:
        """The oom-killer, where the log is a journal that holds its trace."""
        line = next((line for line in [*self.raw, *self.words] if _OOM_KILLER.search(line)), None)
        return Failure(outcome=Outcome.KILLED_BY_KERNEL, line=clean(line)) if line else None

    def engine(self) -> Failure | None:
        """What else the engine says of itself while it loads."""
        if self.loaded:
            return None
        return known_failure([*self.raw, *self.words])

    def death(self, oom_kills: int | None) -> Failure | None:
        """The process that computes is gone, by a signal or without a word."""
        causes = [line for line in [*self.raw, *self.words] if _CAUSE.search(line)]
        lines = [line for line in [*self.text.splitlines(), *self._verdicts()] if _RUNNER_DIED.search(line)]
        if not lines and not causes:
            return None
        proof = next((line for line in lines if _SIGNAL.search(line)), (lines or causes)[0])
        if _KILLED.search(proof):
            return _killed(clean(proof), oom_kills)
        line = clean(causes[0] if causes else telling_line(self.raw) or telling_line(self.words) or proof)
        if self.loaded:
            return Failure(outcome=Outcome.RUNNER_DIED, line=line)
        if causes or any(_CRASH.search(line) for line in lines):
            return Failure(outcome=Outcome.CRASHED, line=line)
        by_itself = any("exit status" in line for line in lines)
        return Failure(outcome=Outcome.FAILED if by_itself else Outcome.RUNNER_DIED, line=line)

    def _verdicts(self) -> list[str]:
        """What Ollama wrote of the runner; without requests that a client gave up."""
        return [entry.line for entry in self.entries if "context canceled" not in _error(entry)]

    def truncation(self) -> Failure | None:
        """A prompt that was cut without an error."""
        cut = next((entry.line for entry in reversed(self.entries) if entry.msg == _TRUNCATED), None)
        return Failure(outcome=Outcome.PROMPT_TRUNCATED, line=clean(cut)) if cut else None


def _by_connection(error: ApiError | None) -> Outcome:
    """What is left to say where neither answer nor log names a cause."""
    if error is not None and error.lost:
        return Outcome.SERVER_DOWN
    return Outcome.TIMEOUT if error is not None and error.status is None else Outcome.REQUEST_FAILED


def _killed(line: str, oom_kills: int | None) -> Failure:
    if oom_kills == 0:
        why = f"SIGKILL from outside; the kernel's oom-killer ended nothing meanwhile. {line}"
        return Failure(outcome=Outcome.RUNNER_DIED, line=why)
    why = (
        "SIGKILL; whether the kernel's oom-killer sent it is not known"
        if oom_kills is None
        else f"SIGKILL by the kernel's oom-killer (oom_kill rose by {oom_kills})"
    )
    return Failure(outcome=Outcome.KILLED_BY_KERNEL, line=f"{why}. {line}")


def _error(entry: Entry) -> str:
    return entry.fields.get("error", "") or entry.fields.get("string", "")


def _first_line(text: str) -> str:
    return clean(next((line for line in text.splitlines() if line.strip()), ""))
