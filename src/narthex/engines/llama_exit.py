"""Why a llama-server ended: one typed outcome, with the line that proves it.

A failure is only called a memory failure where a line says so, or the kernel does. A signal alone is a crash.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from narthex.engines._base import Failure
from narthex.engines.companions import CompanionLog
from narthex.outcomes import Outcome
from narthex.units import MIB

# Lines that prove that an allocation failed; the first one is the cause, later ones repeat it.
_MEMORY = re.compile(
    r"cudaMalloc failed: out of memory|hipMalloc failed"
    r"|(?:CUDA|ROCm|MUSA|HIP) error: out of memory|CU(?:DA)?_ERROR_OUT_OF_MEMORY"
    r"|CUBLAS_STATUS_ALLOC_FAILED|the resource allocation failed"
    r"|ErrorOutOf(?:Device|Host)Memory|OutOf(?:Device|Host)MemoryError|Device memory allocation of size"
    r"|failed to allocate \S+ buffer of size|failed to allocate buffer|failed to allocate compute"
    r"|failed to allocate output buffer|unable to allocate \S+ buffer|insufficient memory"
    r"|Failed to allocate input buffer|graph allocation: failed to reserve memory"
    r"|bad_alloc|Cannot allocate memory|GGML_ASSERT\(ctx->mem_buffer != NULL\)"
    r"|OUT_OF_(?:DEVICE|HOST)_MEMORY|CallbackErrorOutOfMemory"
    r"|failed to allocate +[\d.]+ MB|failed to allocate memory",
    re.IGNORECASE,
)
# Not a failure: pinned memory falls back to ordinary memory.
_HARMLESS = re.compile(r"pinned memory")
# What stood before this was tried again with less, and went on.
_TRIED_AGAIN = re.compile(r"retrying without pipeline parallelism|, retrying\b")
# How big the allocation was: exact forms first.
_BYTES = (
    (re.compile(r"buffer of size (\d+)(?![\d.]* MiB)"), 1),
    (re.compile(r"memory allocation of size (\d+)"), 1),
    (re.compile(r"allocating ([\d.]+) MiB on device"), MIB),
    (re.compile(r"buffer of size ([\d.]+) MiB"), MIB),
    (re.compile(r"attempted to allocate +([\d.]+) MB"), MIB),
    (re.compile(r"failed to allocate +([\d.]+) MB"), MIB),
)

_KNOWN: tuple[tuple[Outcome, re.Pattern[str]], ...] = (
    (
        Outcome.PORT_IN_USE,
        re.compile(r"couldn't bind|couldn't start HTTP listener|address already in use", re.IGNORECASE),
    ),
    (
        Outcome.UNSUPPORTED_FLAG,
        re.compile(
            r"error: invalid argument|error: unknown argument|unrecognized option"
            r"|the argument has been removed|error while handling argument.*(?:removed|unknown argument)"
        ),
    ),
    (
        Outcome.UNSUPPORTED_SETTING,
        re.compile(
            r"quantized V cache requires|V cache quantization requires|requires flash_attn"
            r"|Flash Attention.*required|error while handling argument|Unsupported cache type"
            r"|K cache quantization|error: unknown value for"
        ),
    ),
    (
        Outcome.UNSUPPORTED_ARCHITECTURE,
        re.compile(
            r"unknown model architecture|unsupported model architecture|unknown pre-tokenizer type"
            r"|unknown tokenizer|unsupported model format"
        ),
    ),
    (Outcome.FAILED, re.compile(r"failed to open .*|No such file or directory")),
    (
        Outcome.CORRUPT_FILE,
        re.compile(
            r"invalid magic|invalid file magic|bad GGUF|GGUFv1 is no longer supported|failed to read"
            r"|is extremely large, is there a mismatch|not within the file bounds|corrupted"
            r"|invalid GGUF|gguf_init_from_\w+: |exceeds file size|unexpectedly reached end of file"
            r"|read error: |invalid model: |missing tensor|wrong number of tensors|tensor '.*' not found"
            r"|key not found in model|wrong (?:type|array)|has invalid (?:ggml type|number|data)"
            r"|has offset \d+, expected|invalid split|tensor '.*' has wrong shape"
        ),
    ),
)
_LOST_REMOTE = re.compile(r"Remote RPC server crashed or returned malformed response")
_TELLING = re.compile(
    r"\berror\b|\bfailed\b|GGML_ASSERT|GGML_ABORT|terminate called|what\(\):|\bfatal\b"
    r"|crashed or returned malformed|cannot open shared object|command not found",
    re.IGNORECASE,
)
# These only repeat that something failed.
_EMPTY_WORDS = re.compile(
    r"exiting due to|failed to load model\b|failed to create[_ ]context|cleaning up|fitting params"
    r"|encountered an error while trying to fit"
)
_CLUSTER_LINES = 5  # error lines with fewer lines between them belong together
_PREFIX = re.compile(r"^(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:[A-Z] )?\s*")


def explain_exit(
    lines: Sequence[str],
    exit_code: int | None,
    *,
    loaded: bool,
    oom_kills: int | None = None,
    companions: Sequence[CompanionLog] = (),
) -> Failure:
    """The failure behind an exit.

    ``exit_code`` is negative for a signal. ``loaded`` is whether the engine had become ready: memory that is
    missing then is missing for computing. ``oom_kills`` is how many processes the kernel's oom-killer ended
    meanwhile on this machine, None where the kernel does not tell; a SIGKILL without any is somebody's.
    ``companions`` are asked where the engine lost a server that it computes on: only their own line makes
    that a memory failure.
    """
    if exit_code == -signal.SIGKILL:
        return _killed(lines, oom_kills)
    if (memory := memory_failure(lines, loaded=loaded, exit_code=exit_code)) is not None:
        return memory
    by_itself = exit_code is None or exit_code >= 0 or exit_code == -signal.SIGABRT
    if not loaded and by_itself and (known := known_failure(lines, exit_code=exit_code)) is not None:
        return known
    if any(_LOST_REMOTE.search(line) for line in lines):
        return _lost_remote(lines, exit_code, loaded, companions)
    if exit_code is not None and exit_code < 0:
        return _signalled(lines, exit_code)
    line = telling_line(lines) or last_line(lines) or "It printed nothing."
    return Failure(outcome=Outcome.FAILED, line=line, exit_code=exit_code)


def memory_failure(lines: Sequence[str], *, loaded: bool, exit_code: int | None = None) -> Failure | None:
    """The first failed allocation that was not tried again with success; None where no line proves one."""
    if (line := _memory_line(lines)) is None:
        return None
    return Failure(
        outcome=_out_of_memory(loaded),
        line=clean(line),
        exit_code=exit_code,
        requested_bytes=_requested(lines, line),
    )


def known_failure(lines: Sequence[str], *, exit_code: int | None = None) -> Failure | None:
    """What else an engine says of itself before it is ready: a flag, a setting, an architecture, a file."""
    for outcome, pattern in _KNOWN:
        if (found := next((line for line in lines if pattern.search(line)), None)) is not None:
            return Failure(outcome=outcome, line=clean(found), exit_code=exit_code)
    return None


def telling_line(lines: Sequence[str]) -> str | None:
    """The line that best tells what went wrong: the first of the last cluster of error lines, since a cause
    is printed before what follows from it, and earlier clusters were survived."""
    told: list[int] = []
    for index, line in enumerate(lines):
        if _TRIED_AGAIN.search(line):
            told.clear()
        elif _TELLING.search(line) and not (_EMPTY_WORDS.search(line) or _HARMLESS.search(line)):
            told.append(index)
    if not told:
        return None
    first = told[-1]
    for index in reversed(told):
        if first - index > _CLUSTER_LINES:
            break
        first = index
    return clean(lines[first])


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; «signal 99» where there is no such name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def requested_bytes(lines: Sequence[str]) -> int | None:
    """The size of the allocation that failed, as exactly as one of these lines tells it."""
    for pattern, unit in _BYTES:
        if found := next((match for line in lines if (match := pattern.search(line))), None):
            return round(float(found[1]) * unit)
    return None


def clean(line: str) -> str:
    """Without the log prefix; at most 500 characters."""
    return _PREFIX.sub("", line).strip()[:500]


def last_line(lines: Sequence[str]) -> str | None:
    """The newest line that says something."""
    return next((clean(line) for line in reversed(lines) if line.strip()), None)


def _out_of_memory(loaded: bool) -> Outcome:
    return Outcome.OUT_OF_MEMORY_COMPUTE if loaded else Outcome.OUT_OF_MEMORY


def _lost_remote(
    lines: Sequence[str], exit_code: int | None, loaded: bool, companions: Sequence[CompanionLog]
) -> Failure:
    """The engine lost an RPC server. Memory is the cause only where that server's own log says so."""
    for companion in companions:
        said = companion.new_lines()
        if (line := _memory_line(said)) is not None:
            return Failure(
                outcome=_out_of_memory(loaded),
                line=f"RPC server {companion.endpoint}: {clean(line)}",
                exit_code=exit_code,
                requested_bytes=_requested(said, line),
            )
    line = next(clean(text) for text in lines if _LOST_REMOTE.search(text))
    why = "its log shows no memory failure" if companions else "its log can't be read from here"
    return Failure(outcome=Outcome.CRASHED, line=f"{line} (the RPC server: {why})", exit_code=exit_code)


def _killed(lines: Sequence[str], oom_kills: int | None) -> Failure:
    code = -int(signal.SIGKILL)
    said = last_line(lines)
    last = f" Its last line: {said}" if said else ""
    if oom_kills == 0:
        why = "SIGKILL from outside; the kernel's oom-killer ended nothing meanwhile."
        return Failure(outcome=Outcome.CRASHED, line=why + last, exit_code=code)
    why = (
        "SIGKILL that narthex did not send; the kernel does not tell whether its oom-killer sent it."
        if oom_kills is None
        else f"SIGKILL by the kernel's oom-killer (oom_kill rose by {oom_kills})."
    )
    return Failure(outcome=Outcome.KILLED_BY_KERNEL, line=why + last, exit_code=code)


def _signalled(lines: Sequence[str], exit_code: int) -> Failure:
    name = signal_name(-exit_code)
    if line := telling_line(lines):
        words = f"{name}: {line}"
    else:
        last = last_line(lines)
        words = f"{name}. Its last line: {last}" if last else f"{name}, without a word."
    return Failure(outcome=Outcome.CRASHED, line=words, exit_code=exit_code)


def _memory_line(lines: Sequence[str]) -> str | None:
    """The first line that proves a failed allocation which was not tried again with success."""
    found: str | None = None
    for line in lines:
        if _TRIED_AGAIN.search(line):
            found = None
        elif found is None and _MEMORY.search(line) and not _HARMLESS.search(line):
            found = line
    return found


def _requested(lines: Sequence[str], line: str) -> int | None:
    """From the proving line and those right behind it, which tell of the same allocation."""
    start = next(index for index, text in enumerate(lines) if text is line)
    return requested_bytes([text for text in lines[start : start + 12] if _MEMORY.search(text)])
