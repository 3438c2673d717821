"""The rules about GPUs alone, as a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.doctor.rules import RULES
from narthex.testing.evidence import evidence_of

GPU_RULES = [rule for rule in RULES if rule.area == "gpu"]
Says = Callable[..., list[Finding]]


@pytest.fixture
def gpu_says() -> Says:
    """``gpu_says(ollama_log="…")``: the findings of these rules, the root first."""

    def say(readings: Sequence[Reading] = (), **texts: str) -> list[Finding]:
        found = diagnose(evidence_of(readings, bool(readings), **texts), GPU_RULES)
        assert not [row for row in found.skipped if row.broke]
        for finding in found.findings:
            assert finding.evidence
            for quote in finding.evidence:
                assert quote.source == "host" or quote.text in texts[quote.source]
        return list(found.findings)

    return say
