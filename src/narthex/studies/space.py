"""``Space``: the settings that a study may try, as one finite list with what is known about each.

From a recording the list holds what was recorded; live it holds what the planner says is near the edge of
memory (:mod:`narthex.studies.live_space`). A strategy chooses from the list and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.studies.records import Question
from narthex.trials.replay import Recording
from narthex.trials.trial import TrialRecord, Turn
from narthex.units import MIB

CTX_STEP = 256  # the engine pads a context to this many tokens (llama_context)
CTX_LADDER = (
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
    24576,
    32768,
    49152,
    65536,
    98304,
    131072,
    196608,
    262144,
)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the list.

    ``cpu_share`` is the share of the bytes read for one token that lies in main memory (0…1).
    ``need_bytes`` and ``limit_bytes`` are the plan's figures for the tightest device; None without a plan.
    """

    knobs: KnobValues
    cpu_share: float
    need_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def margin_bytes(self) -> int | None:
        """What the plan leaves free; negative: by how much it does not fit."""
        if self.need_bytes is None or self.limit_bytes is None:
            return None
        return self.limit_bytes - self.need_bytes


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """The list, and what all of it shares.

    ``noise`` is the share by which one measurement of a setting may be off, with every layer on the GPU
    and with layers on the CPU. ``engine_comparable`` is False where the engine's own placement was
    measured with another program than the rest; ``engine_known`` where it was not measured at all.
    """

    candidates: tuple[Candidate, ...]
    all_layers: int
    min_ctx: int
    noise_gpu: float
    noise_split: float
    engine_comparable: bool = True
    engine_known: bool = True
    recorded: bool = False
    free_bytes: int | None = None  # what the engine may take of the card, where there is no plan
    layer_shares: tuple[float, ...] = ()  # CPU share by number of GPU layers; empty: all layers alike

    @property
    def doubt(self) -> float:
        """How many standard deviations better than predicted a setting may turn out. A load from a
        recording takes no time and a recorded point is one noisy measurement, so more is hoped for there."""
        return 1.2 if self.recorded else 1.0

    @property
    def has_gpu(self) -> bool:
        """Whether there is a layer count to choose."""
        return not self.candidates or any(candidate.knobs.gpu_layers for candidate in self.candidates)

    def find(self, knobs: KnobValues) -> Candidate | None:
        """The candidate with exactly these knobs."""
        return next((candidate for candidate in self.candidates if candidate.knobs == knobs), None)

    def comparable(self, history: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials whose speeds can be compared with one another."""
        if self.engine_comparable:
            return list(history)
        return [record for record in history if record.trial.knobs.gpu_layers is not None]

    def pinned(self, pins: Mapping[str, object]) -> Space:
        """The space with some knobs fixed. Raises UsageError where nothing is left."""
        left = tuple(
            candidate
            for candidate in self.candidates
            if all(getattr(candidate.knobs, name) == value for name, value in pins.items())
        )
        if not left:
            fixed = ", ".join(f"{name}={value}" for name, value in pins.items())
            raise UsageError(f"No setting has {fixed}.", hint="Fix fewer knobs with --set.")
        return msgspec.structs.replace(self, candidates=left)

    def values(self, knob: str) -> list[Any]:
        """The distinct values of one knob, smallest first."""
        return sorted({getattr(candidate.knobs, knob) for candidate in self.candidates})

    def cpu_share(self, knobs: KnobValues, offloaded: int | None = None) -> float:
        """The CPU share of any setting: the list's figure, or one by layer count."""
        if candidate := self.find(knobs):
            return candidate.cpu_share
        layers = knobs.gpu_layers if knobs.gpu_layers is not None else offloaded
        near = [c for c in self.candidates if c.knobs.gpu_layers == layers and not c.knobs.cpu_moe]
        if near and not knobs.cpu_moe:
            return near[0].cpu_share
        count = self.all_layers if layers is None else min(layers, self.all_layers)
        if self.layer_shares:
            return self.layer_shares[count]
        return layer_share(count, self.all_layers)


def layer_share(gpu_layers: int, all_layers: int) -> float:
    """CPU share where every layer reads the same number of bytes."""
    return max(0.0, 1.0 - gpu_layers / all_layers) if all_layers else 1.0


def space_of_recording(recording: Recording, question: Question) -> Space:
    """What a recording can answer at the question's depth. Raises UsageError where that is nothing."""
    depth, allowed = question.turn.depth, question.allow_kv
    if not recording.settings(depth):
        known = ", ".join(str(value) for value in recording.depths) or "none"
        raise UsageError(
            f"The recording of {recording.model} has no point at depth {depth}.",
            hint=f"Give one of its depths with --depth: {known}.",
        )
    if question.parallel != 1:
        raise UsageError("A recording holds one slot only.", hint="Leave --parallel out, or tune live.")
    num_ctx = question.min_ctx or recorded_ctx(question.turn)
    layers = recording.all_layers
    settings = [row for row in recording.settings(depth) if row[2] in allowed]
    if not settings:
        raise UsageError(
            f"The recording of {recording.model} has no setting with the KV types {', '.join(allowed)}.",
            hint="Allow more with --allow-kv q4_0.",
        )
    return Space(
        candidates=tuple(
            Candidate(knobs=recording.knobs(row, num_ctx), cpu_share=layer_share(row[0], layers))
            for row in settings
        ),
        all_layers=layers,
        min_ctx=num_ctx,
        # One repeat a point: a few per cent where the GPU does it all, far more with CPU layers
        # (the recorder warns of up to a third in single points).
        noise_gpu=0.03,
        noise_split=0.08,
        engine_comparable=False,
        engine_known=recording.placement(num_ctx) is not None,
        recorded=True,
        free_bytes=int(recording.gpu_free_mib * MIB) if recording.gpu_free_mib else None,
    )


def recorded_ctx(turn: Turn) -> int:
    """The smallest context that holds a turn at its depth, in the engine's own steps."""
    return -(-(turn.depth + turn.prompt_tokens + turn.generate) // CTX_STEP) * CTX_STEP
