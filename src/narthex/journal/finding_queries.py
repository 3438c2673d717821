"""The statements for what the doctor found, what was tried, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from narthex.journal.queries import Db
from narthex.journal.rows import CheckRow, FindingDraft, FindingRow, RemedyRow


def insert_findings(db: Db, run: str, drafts: Sequence[FindingDraft]) -> list[int]:
    """The rows' numbers, in the order of the drafts."""
    numbers = []
    at = time.time()
    for draft in drafts:
        number = db.execute(
            """INSERT INTO findings(run, cause, severity, confidence, title, finding, at)
               VALUES (?, ?, ?, ?, ?, ?, ?)""",
            (run, draft.cause, draft.severity, draft.confidence, draft.title, draft.body.decode(), at),
        ).lastrowid
        assert number is not None
        numbers.append(number)
    return numbers


def insert_remedy(db: Db, finding: int, *, step: str, outcome: str, answer: str) -> None:
    db.execute(
        "INSERT INTO remedies(finding, step, outcome, answer, at) VALUES (?, ?, ?, ?, ?)",
        (finding, step, outcome, answer, time.time()),
    )


def insert_check(db: Db, finding: int, *, gone: bool | None, text: str) -> None:
    db.execute(
        "INSERT INTO remedy_checks(finding, gone, text, at) VALUES (?, ?, ?, ?)",
        (finding, gone, text, time.time()),
    )


def select_findings(db: Db, cause: str | None = None) -> list[FindingRow]:
    """Newest run first; within a run as the doctor told them. ``cause`` narrows them down."""
    rows = db.execute(
        """SELECT id, run, cause, severity, confidence, title, finding, at FROM findings
           WHERE ?1 IS NULL OR cause = ?1 ORDER BY at DESC, id""",
        (cause,),
    ).fetchall()
    return [
        FindingRow(
            id=row[0],
            run=row[1],
            cause=row[2],
            severity=row[3],
            confidence=row[4],
            title=row[5],
            body=row[6].encode(),
            at=row[7],
            remedies=tuple(select_remedies(db, row[0])),
            checks=tuple(select_checks(db, row[0])),
        )
        for row in rows
    ]


def select_remedies(db: Db, finding: int) -> list[RemedyRow]:
    """In the order in which they were tried."""
    rows = db.execute(
        "SELECT id, finding, step, outcome, answer, at FROM remedies WHERE finding = ? ORDER BY id",
        (finding,),
    )
    return [
        RemedyRow(id=row[0], finding=row[1], step=row[2], outcome=row[3], answer=row[4], at=row[5])
        for row in rows
    ]


def select_checks(db: Db, finding: int) -> list[CheckRow]:
    """In time order."""
    rows = db.execute(
        "SELECT id, finding, gone, text, at FROM remedy_checks WHERE finding = ? ORDER BY id", (finding,)
    )
    return [
        CheckRow(
            id=row[0], finding=row[1], gone=None if row[2] is None else bool(row[2]), text=row[3], at=row[4]
        )
        for row in rows
    ]
