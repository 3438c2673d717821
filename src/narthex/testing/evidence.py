"""Evidence and diagnoses from texts that a test writes down."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import dedent

from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Diagnosis
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.rules import RULES, SIGNS


def evidence_of(readings: Sequence[Reading] = (), live: bool = False, **texts: str) -> Evidence:
    """Evidence with a source per keyword, of that kind and name: ``evidence_of(ollama_log="…")``.

    A common indentation and an empty first line are taken away, so that texts can be written in triple
    quotes.
    """
    return read_evidence(
        [Text(kind=kind, name=kind, data=_clean(text).encode()) for kind, text in texts.items()],
        SIGNS,
        readings=readings,
        live=live,
    )


def diagnosis_of(readings: Sequence[Reading] = (), live: bool = False, **texts: str) -> Diagnosis:
    """What all rules say about it."""
    return diagnose(evidence_of(readings, live, **texts), RULES)


def _clean(text: str) -> str:
    return dedent(text).removeprefix("\n")
