"""What the doctor says: findings with their evidence and remedy, facts, and what could not be told."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

SURE = 0.5  # below this confidence a finding is a suspicion


class Severity(StrEnum):
    """How much it hurts. Above ``INFO`` something has to be done."""

    CRITICAL = "critical"  # nothing works, or hardware or data are in danger
    ERROR = "error"  # something asked for does not work
    WARNING = "warning"  # it works, and badly; or it will fail
    INFO = "info"  # harmless; said, so that nobody hunts it

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is really there."""

    source: str  # "ollama_log", a file's name, "docker logs ollama", "/proc/modules"
    line: int  # counted from 1
    text: str  # word for word
    time: str = ""  # as the line itself tells it, ISO 8601 where it could be read


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A POST with JSON to a service on this machine."""

    url: str
    body: dict[str, Any] = {}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a remedy or of a check, as a person would type it.

    ``safe``: it interrupts nobody and loses nothing. ``root``: it needs an administrator; narthex prints it
    and never runs it. ``argv`` or ``request`` is what narthex itself does for ``--fix``; without either the
    step is printed only.
    """

    text: str
    safe: bool
    root: bool = False
    note: str = ""
    argv: tuple[str, ...] = ()
    request: Request | None = None


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, the mildest step first, and how to see that it helped."""

    text: str
    commands: tuple[Command, ...] = ()
    verify: str = ""
    verify_commands: tuple[Command, ...] = ()


class RuledOut(msgspec.Struct, frozen=True, kw_only=True):
    """A likely rival, and why it is not that."""

    cause: str
    why: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's conclusion."""

    cause: str  # the rule's slug
    title: str
    severity: Severity
    confidence: float  # 0 to 1
    evidence: tuple[Quote, ...]
    why: str  # one or two sentences, with the figures
    remedy: Remedy
    ruled_out: tuple[RuledOut, ...] = ()
    about: str = ""  # which model, container, card or file, where there can be several
    consequence_of: str = ""  # the cause above it that brings it about

    @property
    def is_trouble(self) -> bool:
        """Above info."""
        return self.severity is not Severity.INFO


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was looked at and is as it should be, or is simply so."""

    text: str
    evidence: tuple[Quote, ...] = ()


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be told: a rule without evidence, a rule that broke, a collector without answer."""

    what: str  # a slug, or a collector's name
    why: str
    broke: bool = False


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, the likeliest root first and its consequences right after it."""

    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    skipped: tuple[Skipped, ...]

    @property
    def healthy(self) -> bool:
        """Nothing above info."""
        return not any(finding.is_trouble for finding in self.findings)
