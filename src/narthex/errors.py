"""The error tree and the exit codes.

::

    NarthexError                 1   anything expected that has no better place
    ├── UsageError               2   the command line or a setting makes no sense
    ├── ModelFileError           3   the model file is missing, damaged or no GGUF
    ├── EngineError              4   an engine is missing or can't be used
    │   └── EngineNotFound       4
    ├── JournalError             5   the journal can't be read or written
    ├── ProfileError             6   no such profile, or it can't be expressed in the format asked for
    ├── NothingWorked            7   a study ended without one successful trial
    └── TenantError              1   another program on the card can't be measured or given work

What a trial runs into is never raised: it is data (:class:`narthex.outcomes.Outcome`).
Every error carries a hint: the way out, in one sentence.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; documented in ``docs/reference/exit-codes.md``."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    BAD_MODEL = 3
    NO_ENGINE = 4
    JOURNAL = 5
    PROFILE = 6
    NOTHING_WORKED = 7
    CRASH = 70
    INTERRUPTED = 130


class NarthexError(Exception):
    """An expected error: one clear sentence and a way out."""

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NarthexError):
    """The command line or a setting makes no sense."""

    exit_code = ExitCode.USAGE


class ModelFileError(NarthexError):
    """The model file is missing, damaged, or not a GGUF file this program can read."""

    exit_code = ExitCode.BAD_MODEL


class EngineError(NarthexError):
    """An engine can't be used."""

    exit_code = ExitCode.NO_ENGINE


class EngineNotFound(EngineError):
    """No engine of the kind asked for was found."""


class JournalError(NarthexError):
    """The journal can't be read or written."""

    exit_code = ExitCode.JOURNAL


class ProfileError(NarthexError):
    """No such profile, or the format asked for can't express it."""

    exit_code = ExitCode.PROFILE


class NothingWorked(NarthexError):
    """A study ended without one successful trial, so nothing is recommended."""

    exit_code = ExitCode.NOTHING_WORKED


class TenantError(NarthexError):
    """Another program on the card can't be measured or given work."""
