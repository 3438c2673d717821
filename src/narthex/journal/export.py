"""The journal as plain data: what ``narthex journal export --json`` prints. Fields may be added, not changed.

A study: ``id, key, started_at, ended_at, verdict, model, engine_key, host_key, argv, question, result,
engine_loads, trials, decisions, predictions, soaks, notes``. The whole journal: ``narthex, schema,
exported_at, studies, trials, predictions, soaks, notes, profiles, findings, gateway``; the lists beside
``studies`` hold what belongs to no study. Times are seconds since the epoch; unknown is null.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from narthex import __version__
from narthex.journal.journal import Journal
from narthex.journal.migrations import MIGRATIONS
from narthex.journal.rows import FindingRow, GatewayEventRow, ProfileRow, StudyRow
from narthex.trials.trial import TrialRecord


def study_document(journal: Journal, row: StudyRow) -> dict[str, Any]:
    """One study with everything that belongs to it."""
    return {
        "id": row.id,
        "key": row.key,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "verdict": row.verdict,
        "model": row.model,
        "engine_key": row.engine_key,
        "host_key": row.host_key,
        "argv": row.argv,
        "question": msgspec.Raw(row.question),
        "result": None if row.result is None else msgspec.Raw(row.result),
        "engine_loads": row.loads,
        "trials": [trial_document(record) for record in journal.trials(row.id)],
        "decisions": journal.decisions(row.id),
        "predictions": journal.predictions(study=row.id),
        "soaks": journal.soaks(row.id),
        "notes": journal.notes(row.id),
    }


def trial_document(record: TrialRecord) -> dict[str, Any]:
    """A trial: its figures in front, the whole record behind them."""
    observation = record.observation
    return {
        "sequence": record.sequence,
        "purpose": record.trial.purpose,
        "knobs": record.trial.knobs,
        "outcome": observation.outcome,
        "reason": observation.reason,
        "turn_s": observation.turn_s,
        "decode_tps": observation.decode_tps,
        "prompt_tps": observation.prompt_tps,
        "started_at": record.started_at,
        "seconds": record.seconds,
        "trial": record.trial,
        "observation": observation,
    }


def journal_document(journal: Journal, studies: Sequence[StudyRow] | None = None) -> dict[str, Any]:
    """Some studies, or all of the journal with what belongs to no study."""
    everything = studies is None
    rows = journal.studies() if studies is None else studies
    document: dict[str, Any] = {
        "narthex": __version__,
        "schema": len(MIGRATIONS),
        "exported_at": time.time(),
        "studies": [study_document(journal, row) for row in rows],
    }
    if everything:
        document |= {
            "trials": [trial_document(record) for record in journal.trials(None)],
            "predictions": journal.predictions(study=""),
            "soaks": [row for row in journal.soaks() if row.study is None],
            "notes": [row for row in journal.notes() if row.study is None],
            "profiles": [_profile(row) for row in journal.profile_bodies()],
            "findings": [finding_document(row) for row in journal.findings()],
            "gateway": [event_document(row) for row in journal.gateway_events(limit=-1)],
        }
    return document


def finding_document(row: FindingRow) -> dict[str, Any]:
    """A finding of the doctor: what was tried and what came of it, the whole finding behind them."""
    return {
        "id": row.id,
        "run": row.run,
        "at": row.at,
        "cause": row.cause,
        "severity": row.severity,
        "confidence": row.confidence,
        "title": row.title,
        "remedies": row.remedies,
        "checks": row.checks,
        "finding": msgspec.Raw(row.body),
    }


def event_document(row: GatewayEventRow) -> dict[str, Any]:
    """An event of the gateway; ``body`` holds the fields that only its kind has."""
    return {**msgspec.structs.asdict(row), "body": msgspec.Raw(row.body)}


def _profile(row: ProfileRow) -> dict[str, Any]:
    return {"name": row.name, "at": row.at, "profile": msgspec.Raw(row.body)}
