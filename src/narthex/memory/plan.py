"""``MemoryPlan`` and ``plan_memory``: bytes per device before anything is loaded."""

from __future__ import annotations

from typing import Literal

import msgspec

from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection

DeviceKind = Literal["gpu", "host"]


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A place for buffers. ``free_bytes`` is what the engine may take before reserve; None is unknown."""

    name: str
    kind: DeviceKind
    free_bytes: int | None = None
    total_bytes: int | None = None


class DevicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for one device. The ``plan --json`` fields of one entry of ``devices``."""

    name: str
    kind: DeviceKind
    model_bytes: int
    context_bytes: int
    compute_bytes: int
    overhead_bytes: int  # device context and runtime growth: what the engine's own figures leave out
    free_bytes: int | None
    fits: bool | None

    @property
    def planned_bytes(self) -> int:
        """Model + context + compute: what the engine itself would report."""
        return self.model_bytes + self.context_bytes + self.compute_bytes

    @property
    def need_bytes(self) -> int:
        """All of it, overhead included."""
        return self.planned_bytes + self.overhead_bytes


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Where a term could not be checked: it lies between these, per device name."""

    device: str
    term: Literal["model", "context", "compute"]
    low_bytes: int
    high_bytes: int
    why: str


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one setting of one model needs, where. ``gaps`` tells what is unknown or assumed."""

    knobs: KnobValues
    devices: tuple[DevicePlan, ...]
    reserve_bytes: int
    fits: bool | None
    margin_bytes: int | None  # of the tightest GPU after reserve; negative: by how much it does not fit
    known_architecture: bool
    overhead_source: str
    bounds: tuple[Bounds, ...] = ()
    gaps: tuple[str, ...] = ()


def plan_memory(inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...]) -> MemoryPlan:
    """Plan one setting."""
    raise NotImplementedError
