"""The memory picture: what one setting needs on a device at each context length."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from narthex.knobs import KnobValues
from narthex.memory.plan import Device, DevicePlan, plan_memory
from narthex.models.inspection import Inspection

_SHORTEST = 1024


class MemoryBar(msgspec.Struct, frozen=True, kw_only=True):
    """One context length: the plan's terms on one device, in bytes."""

    num_ctx: int
    model_bytes: int
    context_bytes: int
    compute_bytes: int
    overhead_bytes: int

    @property
    def need_bytes(self) -> int:
        """All terms together."""
        return self.model_bytes + self.context_bytes + self.compute_bytes + self.overhead_bytes


class MemoryPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The bars of one device, for the winner's other knobs. ``free_bytes`` is what was free ``when``."""

    device: str
    kind: str
    knobs: KnobValues
    free_bytes: int | None
    reserve_bytes: int
    when: str = "when the study began"
    bars: tuple[MemoryBar, ...]


def picture_memory(
    inspection: Inspection, knobs: KnobValues, devices: Sequence[Device], when: str = "when the study began"
) -> tuple[MemoryPicture, ...]:
    """One picture for each GPU, or for the main memory where there is no GPU.

    Contexts double from 1024 to the trained length, the winner's own included; two that don't fit end it.
    """
    plans = [
        plan_memory(inspection, knobs.with_(num_ctx=ctx), tuple(devices))
        for ctx in _contexts(inspection.context_train, knobs.num_ctx)
    ]
    kind = "gpu" if any(device.kind == "gpu" for device in devices) else "host"
    pictures = []
    for index, device in enumerate(plans[0].devices):
        if device.kind == kind:
            bars = _until_full([plan.devices[index] for plan in plans], [plan.knobs for plan in plans], knobs)
            pictures.append(
                MemoryPicture(
                    device=device.name,
                    kind=device.kind,
                    knobs=knobs,
                    free_bytes=device.free_bytes,
                    reserve_bytes=plans[0].reserve_bytes,
                    when=when,
                    bars=bars,
                )
            )
    return tuple(pictures)


def _contexts(trained: int, chosen: int) -> list[int]:
    found, ctx = {chosen}, _SHORTEST
    while ctx <= max(trained, chosen):
        found.add(ctx)
        ctx *= 2
    return sorted(found)


def _until_full(
    devices: Sequence[DevicePlan], knobs: Sequence[KnobValues], chosen: KnobValues
) -> tuple[MemoryBar, ...]:
    bars: list[MemoryBar] = []
    over = 0
    for device, values in zip(devices, knobs, strict=True):
        full = device.free_bytes is not None and device.need_bytes > device.free_bytes
        over += full and values.num_ctx > chosen.num_ctx
        if over > 2:
            break
        bars.append(
            MemoryBar(
                num_ctx=values.num_ctx,
                model_bytes=device.model_bytes,
                context_bytes=device.context_bytes,
                compute_bytes=device.compute_bytes,
                overhead_bytes=device.overhead_bytes,
            )
        )
    return tuple(bars)
