"""A diagnosis as JSON and as text."""

from __future__ import annotations

import msgspec

from narthex.doctor.finding import Diagnosis


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """The documented form: findings, facts, healthy, skipped."""
    body = {**msgspec.to_builtins(diagnosis), "healthy": diagnosis.healthy}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
