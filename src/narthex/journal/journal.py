"""``Journal``: the record of everything that was tried, measured and decided. It only grows.

One SQLite file in the user's data folder; several processes may have it open. What a method has
returned from is on the disk: neither SIGKILL nor power loss takes it back.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from narthex import paths
from narthex.errors import JournalError
from narthex.journal import finding_queries, gateway_queries, queries
from narthex.journal.database import BUSY_TIMEOUT_S, open_database, translated
from narthex.journal.rows import (
    DecisionRow,
    FindingDraft,
    FindingRow,
    GatewayEventDraft,
    GatewayEventRow,
    NoteRow,
    ProfileRow,
    SoakRow,
    StudyRow,
)
from narthex.journal.study_lock import release, take
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, TrialRecord

if TYPE_CHECKING:
    from narthex.memory.calibrate import PredictionRecord


class Journal:
    """An open journal; use it as a context manager. Every method may raise JournalError.

    ``gaps`` tells what is not as it should be, for example that the file can only be read.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, gaps: tuple[str, ...] = ()) -> None:
        self.path = path
        self.gaps = gaps
        self._db = connection

    @classmethod
    def open(cls, path: Path | None = None, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Journal:
        """Open the journal, the user's own by default; make it where there is none."""
        chosen = path or paths.journal_path()
        connection, gaps = open_database(chosen, busy_timeout_s=busy_timeout_s)
        return cls(chosen, connection, gaps)

    def must_be_writable(self) -> None:
        """JournalError where it can only be read: asked before minutes of measuring, not after them."""
        with self._writing() as db:
            db.execute("INSERT INTO notes SELECT * FROM notes WHERE 0")  # no row, but the right to write one

    def close(self) -> None:
        """Close it. Safe to call twice."""
        self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path):
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block, or nothing."""
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # studies

    @contextmanager
    def lock_study(self, key: str) -> Iterator[None]:
        """Hold a study, by its key, while the block runs. JournalError says which process has it already.

        Take it before :meth:`unfinished_study`, so that two processes can't both begin the same study.
        """
        with translated(self.path):
            lock = take(self.path.parent / "locks", key)
        try:
            yield
        finally:
            release(lock)

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
        """Write down that a study begins, and what it is asked (JSON). Returns its id."""
        with self._writing() as db:
            identifier = _new_id()
            while queries.select_study(db, identifier):
                identifier = _new_id()
            queries.insert_study(
                db,
                identifier,
                key=key,
                question=question,
                model=model,
                engine_key=engine_key,
                host_key=host_key,
                argv=argv,
            )
            return identifier

    def unfinished_study(self, key: str) -> StudyRow | None:
        """The newest study with this key that has no end: the one to go on with."""
        with self._reading() as db:
            return queries.select_unfinished(db, key)

    def study(self, identifier: str) -> StudyRow:
        """One study by its full id."""
        with self._reading() as db:
            found = queries.select_study(db, identifier)
        if found is None:
            raise _no_study(identifier)
        return found

    def find_study(self, text: str) -> StudyRow:
        """One study as a person names it: its id, the beginning of its id, or «last»."""
        everything = self.studies()
        matches = [row for row in everything if row.id.startswith(text)]
        if text == "last":
            matches = everything[:1]
        if not matches or not text:
            raise _no_study(text, empty=not everything)
        if len(matches) > 1 and matches[0].id != text:
            raise JournalError(
                f"«{text}» is the beginning of {len(matches)} studies.",
                hint="Give more of it: " + ", ".join(row.id for row in matches[:4]) + ".",
            )
        return matches[0]

    def studies(self) -> list[StudyRow]:
        """All of them, newest first."""
        with self._reading() as db:
            return queries.select_studies(db)

    def finish_study(self, identifier: str, *, verdict: str, result: bytes) -> None:
        """Write down that a study ended, with its result (JSON). A study ends once."""
        with self._writing() as db:
            queries.insert_study_end(db, identifier, verdict, result)

    # trials, decisions, predictions

    def append_trial(self, study: str | None, record: TrialRecord) -> int:
        """Write down a finished trial; returns its number. The same record twice stays one row."""
        with self._writing() as db:
            return queries.insert_trial(db, study, record)

    def trials(self, study: str | None) -> list[TrialRecord]:
        """A study's trials in the order they ended; ``None`` gives those of no study."""
        with self._reading() as db:
            return queries.select_trials(db, study)

    def last_trial(self, model_identity: str, engine_kind: str = "") -> TrialRecord | None:
        """The newest trial of a model, in any study or none; ``engine_kind``: the newest on such a one."""
        with self._reading() as db:
            return queries.select_last_trial(db, model_identity, engine_kind)

    def append_decision(  # noqa: PLR0917 - in the order in which one reads a step
        self,
        study: str,
        sequence: int,
        kind: str,
        text: str,
        evidence: str = "",
        knobs: KnobValues | None = None,
    ) -> None:
        """Write down one step of a study with its reason."""
        with self._writing() as db:
            queries.insert_decision(
                db, study, sequence=sequence, kind=kind, text=text, evidence=evidence, knobs=knobs
            )

    def decisions(self, study: str) -> list[DecisionRow]:
        """A study's steps in the order they were taken."""
        with self._reading() as db:
            return queries.select_decisions(db, study)

    def append_prediction(self, study: str | None, record: PredictionRecord) -> None:
        """Write down one term of a plan beside what it turned out to be."""
        with self._writing() as db:
            queries.insert_prediction(db, study, record)

    def predictions(
        self,
        model_identity: str | None = None,
        engine_key: str | None = None,
        *,
        study: str | None = None,
    ) -> list[PredictionRecord]:
        """Predictions in time order; each filter given narrows them down. ``study=""``: those of no study."""
        with self._reading() as db:
            return queries.select_predictions(
                db, model_identity=model_identity, engine_key=engine_key, study=study
            )

    # soaks, notes, profiles

    def append_soak(
        self,
        *,
        study: str | None = None,
        profile: str | None = None,
        knobs: KnobValues,
        report: SoakReport,
    ) -> None:
        """Write down one soak."""
        with self._writing() as db:
            queries.insert_soak(db, study=study, profile=profile, knobs=knobs, report=report)

    def soaks(self, study: str | None = None, profile: str | None = None) -> list[SoakRow]:
        """Soaks in time order; each filter given narrows them down."""
        with self._reading() as db:
            return queries.select_soaks(db, study=study, profile=profile)

    def seen_growth(self, model_identity: str) -> int:
        """The most bytes by which soaks of a model that were survived saw VRAM growing; 0: none."""
        with self._reading() as db:
            rows = queries.select_soaks(db, study=None, profile=None, model_identity=model_identity)
        survived = [row.report for row in rows if row.report.outcome is Outcome.DONE]
        return max((report.vram_growth_bytes or 0 for report in survived), default=0)

    def seen_tenants(self, model_identity: str, held_bytes: int) -> int:
        """How much more than ``held_bytes`` other programs held of the card in trials of a model."""
        with self._reading() as db:
            seen = [row.observation.peaks for row in queries.select_model_trials(db, model_identity)]
        others = [
            peaks.vram_card_bytes - peaks.vram_bytes
            for peaks in seen
            if peaks.vram_card_bytes is not None and peaks.vram_bytes is not None
        ]
        return max((held - held_bytes for held in others if held > held_bytes), default=0)

    def append_note(self, text: str, study: str | None = None) -> None:
        """Write down a person's remark."""
        with self._writing() as db:
            queries.insert_note(db, text, study)

    def notes(self, study: str | None = None) -> list[NoteRow]:
        """Remarks in time order: all of them, or those on one study."""
        with self._reading() as db:
            return queries.select_notes(db, study)

    def append_profile(self, name: str, model_identity: str, body: bytes) -> None:
        """Store a profile (JSON). The newest row of a name is the one that counts."""
        with self._writing() as db:
            queries.insert_profile(db, name, model_identity, body)

    def profile_bodies(self) -> list[ProfileRow]:
        """The newest row of each name, newest first."""
        with self._reading() as db:
            return queries.select_profiles(db)

    # what the doctor found

    def append_findings(self, drafts: Sequence[FindingDraft]) -> list[int]:
        """Write down what one run of the doctor found; returns the numbers of the rows."""
        with self._writing() as db:
            return finding_queries.insert_findings(db, _new_id(), drafts)

    def append_remedy(self, finding: int, *, step: str, outcome: str, answer: str = "") -> None:
        """Write down a step that was tried: ``done`` or ``failed``, and what it answered."""
        with self._writing() as db:
            finding_queries.insert_remedy(db, finding, step=step, outcome=outcome, answer=answer)

    def append_check(self, finding: int, *, gone: bool | None, text: str) -> None:
        """Write down whether a finding was gone after the steps; None where it could not be told."""
        with self._writing() as db:
            finding_queries.insert_check(db, finding, gone=gone, text=text)

    def findings(self, cause: str | None = None) -> list[FindingRow]:
        """Findings with what was tried and what came of it, the newest run first."""
        with self._reading() as db:
            return finding_queries.select_findings(db, cause)

    # what the gateway did

    def append_gateway_events(self, drafts: Sequence[GatewayEventDraft]) -> None:
        """Write down some events of the gateway, all or none of them."""
        with self._writing() as db:
            gateway_queries.insert_events(db, drafts)

    def gateway_events(
        self, *, kind: str | None = None, model: str | None = None, limit: int = 1000
    ) -> list[GatewayEventRow]:
        """The newest events of the gateway in time order; each filter given narrows them down.
        ``limit`` -1: all of them."""
        with self._reading() as db:
            return gateway_queries.select_events(db, kind=kind, model=model, limit=limit)


def _new_id() -> str:
    return f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def _no_study(text: str, *, empty: bool = False) -> JournalError:
    if empty:
        return JournalError("The journal holds no study yet.", hint="«narthex tune MODEL» begins one.")
    return JournalError(f"The journal has no study «{text}».", hint="«narthex journal list» shows them all.")
