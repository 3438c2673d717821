"""The journal's schema, as numbered steps that are never edited once released.

Each step runs in one transaction together with its row in ``schema_migrations``: after a kill it has
happened or it has not. Every table only grows; triggers refuse UPDATE and DELETE, whoever asks.
To change the schema: add a step at the end, and put a database file of the version before it into
``tests/journal/assets``.
"""

from __future__ import annotations

import sqlite3
import time
from typing import NamedTuple

from narthex.errors import JournalError

APPLICATION_ID = 0x6E727468  # «nrth», in the file's header: tells a journal from any other SQLite file


def _only_grows(*tables: str) -> tuple[str, ...]:
    """Triggers that refuse to change or delete a row."""
    return tuple(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the journal only grows: no {verb} on {table}'); END"
        for table in tables
        for verb in ("UPDATE", "DELETE")
    )


class Migration(NamedTuple):
    """One step: its number is its place in :data:`MIGRATIONS`, counted from 1."""

    name: str
    statements: tuple[str, ...]


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "studies, trials, decisions, predictions and notes",
        (
            f"PRAGMA application_id = {APPLICATION_ID}",
            """CREATE TABLE studies (
                id TEXT PRIMARY KEY, key TEXT NOT NULL, question TEXT NOT NULL, model TEXT,
                model_identity TEXT, model_name TEXT, engine_key TEXT NOT NULL, host_key TEXT NOT NULL,
                argv TEXT NOT NULL, started_at REAL NOT NULL)""",
            """CREATE TABLE study_ends (
                study TEXT PRIMARY KEY REFERENCES studies(id), verdict TEXT NOT NULL, result TEXT NOT NULL,
                at REAL NOT NULL)""",
            """CREATE TABLE trials (
                id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT REFERENCES studies(id),
                sequence INTEGER NOT NULL, key TEXT NOT NULL, model_identity TEXT NOT NULL,
                engine_key TEXT NOT NULL, host_key TEXT NOT NULL, purpose TEXT NOT NULL,
                knobs TEXT NOT NULL, trial TEXT NOT NULL, started_at REAL NOT NULL)""",
            """CREATE TABLE observations (
                trial INTEGER PRIMARY KEY REFERENCES trials(id), outcome TEXT NOT NULL,
                reason TEXT NOT NULL, counts_as_load INTEGER NOT NULL, turn_s REAL, decode_tps REAL,
                prompt_tps REAL, seconds REAL NOT NULL, observation TEXT NOT NULL)""",
            """CREATE TABLE decisions (
                id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL REFERENCES studies(id),
                sequence INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
                evidence TEXT NOT NULL, knobs TEXT, at REAL NOT NULL)""",
            """CREATE TABLE predictions (
                id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT REFERENCES studies(id),
                model_identity TEXT NOT NULL, engine_key TEXT NOT NULL, device TEXT NOT NULL,
                term TEXT NOT NULL, record TEXT NOT NULL, at REAL NOT NULL)""",
            """CREATE TABLE notes (
                id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT REFERENCES studies(id),
                text TEXT NOT NULL, at REAL NOT NULL)""",
            "CREATE INDEX studies_by_key ON studies(key)",
            # one run of one trial is one row, even if it is handed in twice
            """CREATE UNIQUE INDEX trials_once
                ON trials(coalesce(study, ''), key, sequence, started_at)""",
            "CREATE INDEX trials_by_model ON trials(model_identity)",
            "CREATE INDEX decisions_by_study ON decisions(study)",
            "CREATE INDEX predictions_by_model ON predictions(model_identity, engine_key)",
            *_only_grows(
                "schema_migrations",
                "studies",
                "study_ends",
                "trials",
                "observations",
                "decisions",
                "predictions",
                "notes",
            ),
        ),
    ),
    Migration(
        "profiles and soaks; trials by study",
        (
            """CREATE TABLE profiles (
                id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, model_identity TEXT NOT NULL,
                body TEXT NOT NULL, at REAL NOT NULL)""",
            """CREATE TABLE soaks (
                id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT REFERENCES studies(id), profile TEXT,
                knobs TEXT NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL, report TEXT NOT NULL,
                at REAL NOT NULL)""",
            "CREATE INDEX trials_by_study ON trials(study)",
            "CREATE INDEX profiles_by_name ON profiles(name)",
            "CREATE INDEX soaks_by_study ON soaks(study)",
            "CREATE INDEX soaks_by_profile ON soaks(profile)",
            *_only_grows("profiles", "soaks"),
        ),
    ),
    Migration(
        "findings of the doctor, remedies tried and what came of them",
        (
            """CREATE TABLE findings (
                id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, cause TEXT NOT NULL,
                severity TEXT NOT NULL, confidence REAL NOT NULL, title TEXT NOT NULL,
                finding TEXT NOT NULL, at REAL NOT NULL)""",
            """CREATE TABLE remedies (
                id INTEGER PRIMARY KEY AUTOINCREMENT, finding INTEGER NOT NULL REFERENCES findings(id),
                step TEXT NOT NULL, outcome TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL)""",
            # gone: 1 the finding is no longer there, 0 it still is, NULL it could not be told
            """CREATE TABLE remedy_checks (
                id INTEGER PRIMARY KEY AUTOINCREMENT, finding INTEGER NOT NULL REFERENCES findings(id),
                gone INTEGER, text TEXT NOT NULL, at REAL NOT NULL)""",
            "CREATE INDEX findings_by_cause ON findings(cause)",
            "CREATE INDEX findings_by_run ON findings(run)",
            "CREATE INDEX remedies_by_finding ON remedies(finding)",
            "CREATE INDEX remedy_checks_by_finding ON remedy_checks(finding)",
            *_only_grows("findings", "remedies", "remedy_checks"),
        ),
    ),
    Migration(
        "events of the gateway",
        (
            """CREATE TABLE gateway_events (
                id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
                model TEXT NOT NULL, profile TEXT, client TEXT NOT NULL, cause TEXT NOT NULL,
                text TEXT NOT NULL, body TEXT NOT NULL)""",
            "CREATE INDEX gateway_events_by_model ON gateway_events(model)",
            *_only_grows("gateway_events"),
        ),
    ),
)

_LEDGER = """CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, at REAL NOT NULL)"""


def version(connection: sqlite3.Connection) -> int:
    """The number of the last step that the file has seen; 0 for an empty one. Raises JournalError
    for a SQLite file that is not a journal."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone():
        (number,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
        return int(number)
    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise JournalError(
            "The journal's file is some other program's database.",
            hint="Point NARTHEX_DATA to another folder; nothing was changed in this one.",
        )
    return 0


def migrate(connection: sqlite3.Connection, *, upto: int = len(MIGRATIONS)) -> None:
    """Bring an older file up to step ``upto``. Needs a connection in autocommit mode.

    Raises JournalError when the file has seen steps that this program does not know.
    """
    while (done := version(connection)) < upto:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version(connection) == done:  # no other process was faster
                _apply(connection, done + 1)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    refuse_newer(done)


def refuse_newer(number: int) -> None:
    """Raises JournalError for a version that this program does not know."""
    if number > len(MIGRATIONS):
        raise JournalError(
            f"The journal was written by a newer narthex (schema {number}, known here: {len(MIGRATIONS)}).",
            hint="Update narthex, or point NARTHEX_DATA to another folder; nothing was changed.",
        )


def _apply(connection: sqlite3.Connection, number: int) -> None:
    step = MIGRATIONS[number - 1]
    connection.execute(_LEDGER)
    for statement in step.statements:
        connection.execute(statement)
    connection.execute(
        "INSERT INTO schema_migrations(version, name, at) VALUES (?, ?, ?)", (number, step.name, time.time())
    )
