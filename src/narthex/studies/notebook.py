"""What a study needs of a journal, and ``Notebook``: one in memory, for a replay, which stores nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from narthex.journal.rows import DecisionRow, SoakRow, StudyRow
from narthex.knobs import KnobValues
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, TrialRecord


class StudyJournal(Protocol):
    """The part of :class:`narthex.journal.journal.Journal` that a study writes to and reads from."""

    def lock_study(self, key: str) -> AbstractContextManager[None]: ...

    def begin_study(
        self,
        *,
        key: str,
        question: bytes,
        model: ModelRef | None,
        engine_key: str,
        host_key: str,
        argv: Sequence[str],
    ) -> str: ...

    def unfinished_study(self, key: str) -> StudyRow | None: ...

    def finish_study(self, identifier: str, *, verdict: str, result: bytes) -> None: ...

    def append_trial(self, study: str | None, record: TrialRecord) -> int: ...

    def trials(self, study: str | None) -> list[TrialRecord]: ...

    def append_decision(  # noqa: PLR0917 - the journal's own order
        self,
        study: str,
        sequence: int,
        kind: str,
        text: str,
        evidence: str = "",
        knobs: KnobValues | None = None,
    ) -> None: ...

    def decisions(self, study: str) -> list[DecisionRow]: ...

    def append_soak(
        self,
        *,
        study: str | None = None,
        profile: str | None = None,
        knobs: KnobValues,
        report: SoakReport,
    ) -> None: ...

    def soaks(self, study: str | None = None, profile: str | None = None) -> list[SoakRow]: ...


class Notebook:
    """A journal that is forgotten when the process ends. Each study in it is new."""

    def __init__(self) -> None:
        self._trials: list[TrialRecord] = []
        self._decisions: list[DecisionRow] = []
        self._soaks: list[SoakRow] = []

    def lock_study(self, key: str) -> AbstractContextManager[None]:
        """Nobody else can have it."""
        return nullcontext()

    def begin_study(
        self,
        *,
        key: str,
        question: bytes,
        model: ModelRef | None,
        engine_key: str,
        host_key: str,
        argv: Sequence[str],
    ) -> str:
        """An id that tells that nothing of this is kept."""
        return f"replay-{key[:8]}"

    def unfinished_study(self, key: str) -> StudyRow | None:
        """Never one."""
        return None

    def finish_study(self, identifier: str, *, verdict: str, result: bytes) -> None:
        """Nothing is kept."""

    def append_trial(self, study: str | None, record: TrialRecord) -> int:
        """Remember a trial."""
        self._trials.append(record)
        return len(self._trials)

    def trials(self, study: str | None) -> list[TrialRecord]:
        """The trials so far."""
        return list(self._trials)

    def append_decision(  # noqa: PLR0917 - the journal's own order
        self,
        study: str,
        sequence: int,
        kind: str,
        text: str,
        evidence: str = "",
        knobs: KnobValues | None = None,
    ) -> None:
        """Remember a step."""
        self._decisions.append(
            DecisionRow(
                id=len(self._decisions) + 1,
                study=study,
                sequence=sequence,
                kind=kind,
                text=text,
                evidence=evidence,
                knobs=knobs,
                at=time.time(),
            )
        )

    def decisions(self, study: str) -> list[DecisionRow]:
        """The steps so far."""
        return list(self._decisions)

    def append_soak(
        self,
        *,
        study: str | None = None,
        profile: str | None = None,
        knobs: KnobValues,
        report: SoakReport,
    ) -> None:
        """Remember a soak."""
        number = len(self._soaks) + 1
        self._soaks.append(
            SoakRow(id=number, study=study, profile=profile, knobs=knobs, report=report, at=time.time())
        )

    def soaks(self, study: str | None = None, profile: str | None = None) -> list[SoakRow]:
        """The soaks so far."""
        return list(self._soaks)
