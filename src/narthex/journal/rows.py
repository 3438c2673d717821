"""What the journal gives back: one record for each kind of row.

Trials and predictions come back as the records that went in. Bodies that belong to later layers
(a study's question and result, a profile) stay JSON bytes: the journal does not know their types.
"""

from __future__ import annotations

import msgspec

from narthex.knobs import KnobValues
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef


class StudyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One study. ``ended_at``, ``verdict`` and ``result`` are None until it is finished."""

    id: str
    key: str
    question: bytes  # JSON
    model: ModelRef | None
    engine_key: str
    host_key: str
    argv: tuple[str, ...]
    started_at: float  # seconds since the epoch
    ended_at: float | None = None
    verdict: str | None = None
    result: bytes | None = None  # JSON
    trials: int = 0
    loads: int = 0  # trials that cost a load of the engine

    @property
    def finished(self) -> bool:
        """Whether its end is written down."""
        return self.ended_at is not None


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a study, with its reason."""

    id: int
    study: str
    sequence: int
    kind: str
    text: str
    evidence: str
    knobs: KnobValues | None
    at: float


class SoakRow(msgspec.Struct, frozen=True, kw_only=True):
    """One soak, of a study, of a profile, or of both."""

    id: int
    study: str | None
    profile: str | None
    knobs: KnobValues
    report: SoakReport
    at: float


class NoteRow(msgspec.Struct, frozen=True, kw_only=True):
    """A remark that a person made."""

    id: int
    text: str
    study: str | None
    at: float


class ProfileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stored profile; ``body`` is its JSON."""

    id: int
    name: str
    model_identity: str
    body: bytes
    at: float


class RemedyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a remedy that the doctor tried."""

    id: int
    finding: int
    step: str  # the command, or the request
    outcome: str  # done, failed
    answer: str  # what it printed, shortened
    at: float


class CheckRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen after the steps. ``gone`` None: it could not be told."""

    id: int
    finding: int
    gone: bool | None
    text: str
    at: float


class FindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of one run of the doctor on this machine; ``body`` is its JSON."""

    id: int
    run: str
    cause: str
    severity: str
    confidence: float
    title: str
    body: bytes
    at: float
    remedies: tuple[RemedyRow, ...] = ()
    checks: tuple[CheckRow, ...] = ()


class FindingDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A finding to be written down; ``body`` is its JSON."""

    cause: str
    severity: str
    confidence: float
    title: str
    body: bytes


class GatewayEventDraft(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the gateway did or saw, to be written down; ``body`` is JSON."""

    at: float  # seconds since the epoch
    kind: str  # "loaded", "failed", "unloaded", "lease", …
    model: str = ""
    profile: str | None = None
    client: str = ""  # whose request caused it
    cause: str = ""  # of a failure
    text: str = ""
    body: bytes = b"{}"


class GatewayEventRow(GatewayEventDraft, frozen=True, kw_only=True):
    """It, as it was written down."""

    id: int
