"""What is as it should be, told as facts: whoever looks for a fault need not look there."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Fact


def facts_of(evidence: Evidence) -> Iterator[Fact]:
    """Facts from log lines; those of the live machine come from its collectors."""
    yield from ()
