"""What a collector brings back."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.reading.text import Text


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """Readings of this machine, logs to be searched for signs, facts about what is well, and gaps."""

    readings: tuple[Reading, ...] = ()
    texts: tuple[Text, ...] = ()
    facts: tuple[Fact, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def together(parts: Iterable[Collected]) -> Collected:
    """All parts as one, in their order."""
    rows = list(parts)
    return Collected(
        readings=tuple(reading for part in rows for reading in part.readings),
        texts=tuple(text for part in rows for text in part.texts),
        facts=tuple(fact for part in rows for fact in part.facts),
        skipped=tuple(gap for part in rows for gap in part.skipped),
    )


def gap(name: str, because: str, about: str = "") -> Reading:
    """A reading that could not be taken."""
    return Reading(name=name, gap=f"can't tell, because {because}", about=about)
