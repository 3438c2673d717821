"""The rules about runner and model alone, as a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.diagnose import diagnose
from narthex.doctor.finding import Finding
from narthex.doctor.rules import RULES
from narthex.testing.evidence import evidence_of

Says = Callable[..., list[Finding]]
MODEL_RULES = [rule for rule in RULES if rule.area == "model"]


@pytest.fixture
def says() -> Says:
    """``says(ollama_log="…")``: what these rules find, the root first; each with lines that are there."""

    def say(**texts: str) -> list[Finding]:
        told = diagnose(evidence_of((), False, **texts), MODEL_RULES)
        assert not [row for row in told.skipped if row.broke]
        for finding in told.findings:
            assert finding.evidence
            assert finding.why.endswith(".")
            assert all(quote.text in texts[quote.source] for quote in finding.evidence)
        return list(told.findings)

    return say


@pytest.fixture
def causes(says: Says) -> Callable[..., list[str]]:
    """The slugs of what is above info."""
    return lambda **texts: [finding.cause for finding in says(**texts) if finding.is_trouble]
