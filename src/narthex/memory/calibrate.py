"""What real loads taught: corrections of the plan's terms, for one model, engine build and device.

Every load's own buffer lines and NVML readings are journaled beside the prediction. From them comes one
correction a term: a constant that was missing, or a factor, whichever explains the loads better. Medians are
used throughout, so that one odd load changes little.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

from narthex.knobs import KnobValues

Term = Literal["model", "context", "compute", "overhead"]
Source = Literal["log", "nvml", "fit-params"]
Outputs = Literal["every", "slots"]

HOST_NAMES = frozenset({"host", "cpu"})


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One term of one load on one device: what was planned, and what it was.

    ``device`` is the engine's name for it («CUDA0»; «Host» for main memory). ``predicted_bytes`` is the
    uncalibrated plan; ``slots_bytes`` the same term if the engine plans logits for its slots only (see
    :data:`Outputs`), which tells the two kinds of builds apart.
    """

    model_identity: str
    engine_key: str
    device: str
    term: Term
    knobs: KnobValues
    predicted_bytes: int
    actual_bytes: int
    source: Source
    slots_bytes: int | None = None


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """How to correct one term on one kind of device: ``predicted × ratio + offset_bytes``."""

    kind: Literal["gpu", "host"]
    term: Term
    ratio: float
    offset_bytes: int
    loads: int
    off_by_bytes: int  # median distance from the loads it was learned from, after correction


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Corrections for one engine build and device, learned from loads of one model or more."""

    engine_key: str | None
    corrections: tuple[Correction, ...] = ()
    outputs: Outputs = "every"
    loads: int = 0

    def correct(self, kind: Literal["gpu", "host"], term: Term, predicted: int) -> int:
        """A term's bytes after correction; as they were where nothing was learned."""
        for row in self.corrections:
            if row.kind == kind and row.term == term:
                return max(0, round(predicted * row.ratio) + row.offset_bytes)
        return predicted

    @property
    def tells(self) -> bool:
        """Whether a plan with it is another than one without."""
        return bool(self.corrections) or self.outputs != "every"

    def measured(self, kind: Literal["gpu", "host"], term: Term) -> bool:
        """Whether anything was learned about a term."""
        return any(row.kind == kind and row.term == term for row in self.corrections)


def calibrate(predictions: Sequence[PredictionRecord], usual: Outputs = "every") -> Calibration:
    """Corrections from the loads of one engine build; empty where there are none.

    ``usual``: how this kind of engine works out logits, as long as no load has told.
    """
    if not predictions:
        return Calibration(engine_key=None, outputs=usual)
    newest = predictions[-1].engine_key
    rows = [row for row in predictions if row.engine_key == newest]
    outputs = _outputs(rows, usual)
    corrections = []
    for kind in ("gpu", "host"):
        for term in ("model", "context", "compute", "overhead"):
            pairs = [
                (_predicted(row, outputs), row.actual_bytes)
                for row in rows
                if row.term == term and device_kind(row.device) == kind
            ]
            if pairs:
                corrections.append(_learn(kind, term, pairs))
    return Calibration(
        engine_key=newest,
        corrections=tuple(corrections),
        outputs=outputs,
        loads=max(row.loads for row in corrections),
    )


def device_kind(device: str) -> Literal["gpu", "host"]:
    """«gpu» or «host» from an engine's name for a device."""
    return "host" if device.lower() in HOST_NAMES else "gpu"


def _predicted(row: PredictionRecord, outputs: Outputs) -> int:
    if outputs == "slots" and row.slots_bytes is not None:
        return row.slots_bytes
    return row.predicted_bytes


def _outputs(rows: Sequence[PredictionRecord], usual: Outputs) -> Outputs:
    """Which kind of build this is: the one whose compute predictions lie nearer to the loads."""
    told = [row for row in rows if row.term == "compute" and row.slots_bytes is not None]
    if not told:
        return usual
    every = sum(abs(row.actual_bytes - row.predicted_bytes) for row in told)
    slots = sum(abs(row.actual_bytes - (row.slots_bytes or 0)) for row in told)
    return "slots" if slots < every else "every"


def _learn(kind: Literal["gpu", "host"], term: Term, pairs: Sequence[tuple[int, int]]) -> Correction:
    offset = round(median(actual - predicted for predicted, actual in pairs))
    off_by_offset = median(abs(actual - predicted - offset) for predicted, actual in pairs)
    ratio, offset_bytes, off_by = 1.0, offset, off_by_offset
    ratios = [actual / predicted for predicted, actual in pairs if predicted]
    if len(pairs) > 1 and len(ratios) == len(pairs):
        factor = median(ratios)
        off_by_factor = median(abs(actual - predicted * factor) for predicted, actual in pairs)
        if off_by_factor < off_by_offset:
            ratio, offset_bytes, off_by = factor, 0, off_by_factor
    return Correction(
        kind=kind,
        term=term,
        ratio=ratio,
        offset_bytes=offset_bytes,
        loads=len(pairs),
        off_by_bytes=round(off_by),
    )
