"""The statements for what the gateway did."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.journal.queries import Db
from narthex.journal.rows import GatewayEventDraft, GatewayEventRow


def insert_events(db: Db, drafts: Sequence[GatewayEventDraft]) -> None:
    db.executemany(
        """INSERT INTO gateway_events(at, kind, model, profile, client, cause, text, body)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            (one.at, one.kind, one.model, one.profile, one.client, one.cause, one.text, one.body.decode())
            for one in drafts
        ],
    )


def select_events(db: Db, *, kind: str | None, model: str | None, limit: int) -> list[GatewayEventRow]:
    """The newest, in time order; each filter given narrows them down."""
    rows = db.execute(
        """SELECT id, at, kind, model, profile, client, cause, text, body FROM gateway_events
           WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR model = ?2)
           ORDER BY id DESC LIMIT ?3""",
        (kind, model, limit),
    ).fetchall()
    return [
        GatewayEventRow(
            id=row[0],
            at=row[1],
            kind=row[2],
            model=row[3],
            profile=row[4],
            client=row[5],
            cause=row[6],
            text=row[7],
            body=row[8].encode(),
        )
        for row in reversed(rows)
    ]
