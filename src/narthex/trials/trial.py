"""``Trial``: a self-contained question. ``TrialRecord``: the question with its answer.

A trial can be sent to another process or another machine: it holds values, no handles.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Protocol

import msgspec

from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.trials.observation import Observation


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What is timed: a fresh prompt of ``prompt_tokens`` on top of ``depth`` tokens of context, then
    ``generate`` tokens. One turn is ``prompt_tokens / prompt_tps + generate / decode_tps`` seconds."""

    depth: int = 3072
    prompt_tokens: int = 512
    generate: int = 256


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A model by path and identity (see Inspection.identity)."""

    path: str
    identity: str
    name: str
    layers: int = 0
    file_bytes: int = 0
    served_as: str = ""  # its name in a server that knows models by name: "deepseek-r1:32b"


def model_ref(inspection: Inspection) -> ModelRef:
    """The reference that trials and profiles keep of an inspected model; it holds from any folder."""
    return ModelRef(
        path=os.path.abspath(inspection.path),
        identity=inspection.identity,
        name=inspection.name,
        layers=inspection.layers,
        file_bytes=inspection.file_bytes,
    )


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One setting to be run."""

    model: ModelRef
    engine_key: str
    host_key: str
    knobs: KnobValues
    turn: Turn = Turn()
    workload: str = "chat"
    repeats: int = 3
    purpose: str = "search"  # "baseline:engine", "search", "confirm", "soak", "manual", "verify"

    @property
    def key(self) -> str:
        """Hash of model, engine build, knobs, workload and host: «already measured» is a look-up."""
        parts = (
            self.model.identity,
            self.engine_key,
            self.host_key,
            self.knobs,
            self.turn,
            self.workload,
            self.repeats,
        )
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished trial: never changed after it is written."""

    trial: Trial
    observation: Observation
    started_at: float  # seconds since the epoch
    seconds: float
    sequence: int = 0  # its place in the study


Watch = Callable[[str, float | None], None]
"""Called with a stage («loading», «prompt», «decode»…) and, where known, its share done in 0…1."""


class Runner(Protocol):
    """Answers trials: from a real engine, or from a recording."""

    def run(self, trial: Trial, watch: Watch) -> Observation:
        """Run it and observe. Failures are data; only KeyboardInterrupt gets out."""
        ...
