"""Every statement that reads or writes rows, and how a row becomes a record.

Plain SQL: this is the seam behind which another database could stand.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from narthex.errors import JournalError
from narthex.journal.rows import DecisionRow, NoteRow, ProfileRow, SoakRow, StudyRow
from narthex.knobs import KnobValues
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, Trial, TrialRecord

if TYPE_CHECKING:
    from narthex.memory.calibrate import PredictionRecord

T = TypeVar("T")
Db = sqlite3.Connection


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _record(text: str, kind: type[T], where: str) -> T:
    """One stored record. Raises JournalError when it does not have the shape this program knows."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise JournalError(
            f"The journal's {where} can't be read: {error}.",
            hint="Another version of narthex may have written it; that version can still export it.",
        ) from error


def _knobs(text: str | None, where: str) -> KnobValues | None:
    return None if text is None else _record(text, KnobValues, where)


# studies

_STUDIES = """
    SELECT s.id, s.key, s.question, s.model, s.engine_key, s.host_key, s.argv, s.started_at,
           e.at, e.verdict, e.result,
           (SELECT count(*) FROM trials t WHERE t.study = s.id),
           (SELECT count(*) FROM trials t JOIN observations o ON o.trial = t.id
             WHERE t.study = s.id AND o.counts_as_load)
      FROM studies s LEFT JOIN study_ends e ON e.study = s.id"""


def _study(row: Sequence[Any]) -> StudyRow:
    where = f"study {row[0]}"
    return StudyRow(
        id=row[0],
        key=row[1],
        question=row[2].encode(),
        model=None if row[3] is None else _record(row[3], ModelRef, where),
        engine_key=row[4],
        host_key=row[5],
        argv=tuple(_record(row[6], list[str], where)),
        started_at=row[7],
        ended_at=row[8],
        verdict=row[9],
        result=None if row[10] is None else row[10].encode(),
        trials=row[11],
        loads=row[12],
    )


def insert_study(
    db: Db,
    identifier: str,
    *,
    key: str,
    question: bytes,
    model: ModelRef | None,
    engine_key: str,
    host_key: str,
    argv: Sequence[str],
) -> None:
    db.execute(
        "INSERT INTO studies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            identifier,
            key,
            question.decode(),
            None if model is None else _text(model),
            model.identity if model else None,
            model.name if model else None,
            engine_key,
            host_key,
            _text([word.encode(errors="replace").decode() for word in argv]),
            time.time(),
        ),
    )


def insert_study_end(db: Db, study: str, verdict: str, result: bytes) -> None:
    db.execute("INSERT INTO study_ends VALUES (?, ?, ?, ?)", (study, verdict, result.decode(), time.time()))


def select_study(db: Db, identifier: str) -> StudyRow | None:
    row = db.execute(f"{_STUDIES} WHERE s.id = ?", (identifier,)).fetchone()
    return None if row is None else _study(row)


def select_studies(db: Db) -> list[StudyRow]:
    """Newest first."""
    return [_study(row) for row in db.execute(f"{_STUDIES} ORDER BY s.started_at DESC, s.rowid DESC")]


def select_unfinished(db: Db, key: str) -> StudyRow | None:
    row = db.execute(
        f"{_STUDIES} WHERE s.key = ? AND e.at IS NULL ORDER BY s.started_at DESC, s.rowid DESC", (key,)
    ).fetchone()
    return None if row is None else _study(row)


# trials

_TRIALS = """
    SELECT t.id, t.trial, o.observation, t.started_at, o.seconds, t.sequence
      FROM trials t JOIN observations o ON o.trial = t.id"""


def _trial(row: Sequence[Any]) -> TrialRecord:
    where = f"trial {row[0]}"
    return TrialRecord(
        trial=_record(row[1], Trial, where),
        observation=_record(row[2], Observation, where),
        started_at=row[3],
        seconds=row[4],
        sequence=row[5],
    )


def insert_trial(db: Db, study: str | None, record: TrialRecord) -> int:
    """The row's number; a record that is already there keeps the one it has."""
    trial, observation = record.trial, record.observation
    known = db.execute(
        "SELECT id FROM trials WHERE coalesce(study, '') = ? AND key = ? AND sequence = ? AND started_at = ?",
        (study or "", trial.key, record.sequence, record.started_at),
    ).fetchone()
    if known:
        return int(known[0])
    number = db.execute(
        """INSERT INTO trials(study, sequence, key, model_identity, engine_key, host_key, purpose,
                              knobs, trial, started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            study,
            record.sequence,
            trial.key,
            trial.model.identity,
            trial.engine_key,
            trial.host_key,
            trial.purpose,
            _text(trial.knobs),
            _text(trial),
            record.started_at,
        ),
    ).lastrowid
    assert number is not None
    db.execute(
        "INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            observation.outcome.value,
            observation.reason,
            observation.counts_as_load,
            observation.turn_s,
            observation.decode_tps,
            observation.prompt_tps,
            record.seconds,
            _text(observation),
        ),
    )
    return number


def select_trials(db: Db, study: str | None) -> list[TrialRecord]:
    """In the order in which they were written; ``None`` gives those that belong to no study."""
    return [_trial(row) for row in db.execute(f"{_TRIALS} WHERE t.study IS ? ORDER BY t.id", (study,))]


def select_model_trials(db: Db, model_identity: str) -> list[TrialRecord]:
    """Every trial of a model, in the order in which they were written."""
    rows = db.execute(f"{_TRIALS} WHERE t.model_identity = ? ORDER BY t.id", (model_identity,))
    return [_trial(row) for row in rows]


def select_last_trial(db: Db, model_identity: str, engine_kind: str) -> TrialRecord | None:
    row = db.execute(
        f"{_TRIALS} WHERE t.model_identity = ? AND t.engine_key LIKE ? ORDER BY t.id DESC LIMIT 1",
        (model_identity, f"{engine_kind} %" if engine_kind else "%"),
    ).fetchone()
    return None if row is None else _trial(row)


# decisions, predictions, notes


def insert_decision(
    db: Db, study: str, *, sequence: int, kind: str, text: str, evidence: str, knobs: KnobValues | None
) -> None:
    db.execute(
        """INSERT INTO decisions(study, sequence, kind, text, evidence, knobs, at)
           VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (study, sequence, kind, text, evidence, None if knobs is None else _text(knobs), time.time()),
    )


def select_decisions(db: Db, study: str) -> list[DecisionRow]:
    rows = db.execute(
        """SELECT id, study, sequence, kind, text, evidence, knobs, at FROM decisions
           WHERE study = ? ORDER BY id""",
        (study,),
    )
    return [
        DecisionRow(
            id=row[0],
            study=row[1],
            sequence=row[2],
            kind=row[3],
            text=row[4],
            evidence=row[5],
            knobs=_knobs(row[6], f"decision {row[0]}"),
            at=row[7],
        )
        for row in rows
    ]


def insert_prediction(db: Db, study: str | None, record: PredictionRecord) -> None:
    db.execute(
        """INSERT INTO predictions(study, model_identity, engine_key, device, term, record, at)
           VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (
            study,
            record.model_identity,
            record.engine_key,
            record.device,
            record.term,
            _text(record),
            time.time(),
        ),
    )


def select_predictions(
    db: Db, *, model_identity: str | None = None, engine_key: str | None = None, study: str | None = None
) -> list[PredictionRecord]:
    from narthex.memory.calibrate import PredictionRecord

    rows = db.execute(
        """SELECT id, record FROM predictions WHERE (?1 IS NULL OR model_identity = ?1)
           AND (?2 IS NULL OR engine_key = ?2) AND (?3 IS NULL OR coalesce(study, '') = ?3) ORDER BY id""",
        (model_identity, engine_key, study),
    )
    return [_record(text, PredictionRecord, f"prediction {number}") for number, text in rows]


def insert_note(db: Db, text: str, study: str | None) -> None:
    db.execute("INSERT INTO notes(study, text, at) VALUES (?, ?, ?)", (study, text, time.time()))


def select_notes(db: Db, study: str | None) -> list[NoteRow]:
    rows = db.execute(
        "SELECT id, text, study, at FROM notes WHERE ?1 IS NULL OR study = ?1 ORDER BY id", (study,)
    )
    return [NoteRow(id=row[0], text=row[1], study=row[2], at=row[3]) for row in rows]


# profiles and soaks


def insert_profile(db: Db, name: str, model_identity: str, body: bytes) -> None:
    db.execute(
        "INSERT INTO profiles(name, model_identity, body, at) VALUES (?, ?, ?, ?)",
        (name, model_identity, body.decode(), time.time()),
    )


def select_profiles(db: Db) -> list[ProfileRow]:
    """The newest row of each name, newest first."""
    rows = db.execute(
        """SELECT id, name, model_identity, body, at FROM profiles
           WHERE id IN (SELECT max(id) FROM profiles GROUP BY name) ORDER BY id DESC"""
    )
    return [
        ProfileRow(id=row[0], name=row[1], model_identity=row[2], body=row[3].encode(), at=row[4])
        for row in rows
    ]


def insert_soak(
    db: Db, *, study: str | None, profile: str | None, knobs: KnobValues, report: SoakReport
) -> None:
    db.execute(
        """INSERT INTO soaks(study, profile, knobs, outcome, seconds, report, at)
           VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (study, profile, _text(knobs), report.outcome.value, report.seconds, _text(report), time.time()),
    )


def select_soaks(
    db: Db, *, study: str | None, profile: str | None, model_identity: str | None = None
) -> list[SoakRow]:
    rows = db.execute(
        """SELECT id, study, profile, knobs, report, at FROM soaks
           WHERE (?1 IS NULL OR study = ?1) AND (?2 IS NULL OR profile = ?2)
             AND (?3 IS NULL OR study IN (SELECT id FROM studies WHERE model_identity = ?3)
                             OR profile IN (SELECT name FROM profiles WHERE model_identity = ?3))
           ORDER BY id""",
        (study, profile, model_identity),
    )
    return [
        SoakRow(
            id=row[0],
            study=row[1],
            profile=row[2],
            knobs=_record(row[3], KnobValues, f"soak {row[0]}"),
            report=_record(row[4], SoakReport, f"soak {row[0]}"),
            at=row[5],
        )
        for row in rows
    ]
