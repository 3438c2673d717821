"""Findings, remedies that were tried and what came of them, as the journal keeps them.

A journal that can't be written is told once and stops nothing: whoever is ill wants the diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from narthex.doctor.finding import Finding, Quote
from narthex.doctor.redact import hide_secrets
from narthex.errors import JournalError
from narthex.journal.journal import Journal
from narthex.journal.rows import FindingDraft

LONGEST = 2000  # characters of a quote or an answer that are kept
_WAIT_S = 1.0  # for whoever else writes: the person waits for the diagnosis
T = TypeVar("T")


class Record:
    """One run of the doctor in the journal; use it as a context manager. ``say`` takes one sentence."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._numbers: dict[tuple[str, str], int] = {}
        self._journal = self._try(lambda: Journal.open(busy_timeout_s=_WAIT_S))

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    def findings(self, findings: Iterable[Finding]) -> None:
        """Write down what was found."""
        rows = list(findings)
        if self._journal is None or not rows:
            return
        journal = self._journal
        numbers = self._try(lambda: journal.append_findings([draft(finding) for finding in rows]))
        for finding, number in zip(rows, numbers or (), strict=False):
            self._numbers[finding.cause, finding.about] = number

    def remedy(self, finding: Finding, step: str, outcome: str, answer: str) -> None:
        """Write down a step that was tried."""
        number = self._numbers.get((finding.cause, finding.about))
        if self._journal is not None and number is not None:
            journal = self._journal
            self._try(
                lambda: journal.append_remedy(number, step=_kept(step), outcome=outcome, answer=_kept(answer))
            )

    def check(self, finding: Finding, gone: bool | None, text: str) -> None:
        """Write down what was seen after it."""
        number = self._numbers.get((finding.cause, finding.about))
        if self._journal is not None and number is not None:
            journal = self._journal
            self._try(lambda: journal.append_check(number, gone=gone, text=_kept(text)))

    def _try(self, write: Callable[[], T]) -> T | None:
        try:
            return write()
        except JournalError as error:
            self._journal = None
            self._say(f"What was found is not in the journal: {error.message}")
            return None


def draft(finding: Finding) -> FindingDraft:
    """A finding as the journal keeps it: without keys, also where it tells of its lines in words of its own,
    and without endless lines."""
    quotes = tuple(_short(quote) for quote in finding.evidence)
    body = _hidden(msgspec.to_builtins(msgspec.structs.replace(finding, evidence=quotes)))
    return FindingDraft(
        cause=finding.cause,
        severity=finding.severity.value,
        confidence=finding.confidence,
        title=hide_secrets(finding.title),
        body=msgspec.json.encode(body),
    )


def _short(quote: Quote) -> Quote:
    return msgspec.structs.replace(quote, text=_kept(quote.text))


def _hidden(value: Any) -> Any:
    """All texts in it without secrets."""
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {name: _hidden(each) for name, each in value.items()}
    return [_hidden(each) for each in value] if isinstance(value, list | tuple) else value


def _kept(text: str) -> str:
    return hide_secrets(text[:LONGEST])
