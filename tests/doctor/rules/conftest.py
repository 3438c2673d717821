"""All rules over texts, and over readings, as calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of

Says = Callable[..., list[Finding]]


@pytest.fixture
def says() -> Says:
    """``says(ollama_log="…")``: what all rules find, the root first; every quote is there, no rule breaks."""

    def say(readings: Sequence[Reading] = (), **texts: str) -> list[Finding]:
        found = diagnosis_of(readings, bool(readings), **texts)
        assert not [row for row in found.skipped if row.broke]
        for finding in found.findings:
            assert finding.evidence
            for quote in finding.evidence:
                assert quote.source == "host" or quote.text in texts[quote.source]
        return list(found.findings)

    return say


@pytest.fixture
def first(says: Says) -> Callable[..., Finding]:
    """The first finding above info."""

    def find(readings: Sequence[Reading] = (), **texts: str) -> Finding:
        return next(finding for finding in says(readings, **texts) if finding.is_trouble)

    return find


@pytest.fixture
def causes(says: Says) -> Callable[..., list[str]]:
    """The causes above info, in order."""

    def find(readings: Sequence[Reading] = (), **texts: str) -> list[str]:
        return [finding.cause for finding in says(readings, **texts) if finding.is_trouble]

    return find
