"""``MemoryPlan`` and ``plan_memory``: bytes per device before anything is loaded."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Literal, NamedTuple

import msgspec

from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.memory import overhead, recipes
from narthex.memory.blocks import MissingWeight
from narthex.memory.bounds import rough_compute
from narthex.memory.calibrate import Calibration, Outputs, Term
from narthex.memory.compute import compute_bytes, flash_stays_home
from narthex.memory.kv_cache import Flash, cache_bytes, layer_bytes, quantised, setup_for
from narthex.memory.weights import Placement, gpu_weights, place, weight_bytes
from narthex.models.inspection import Inspection
from narthex.units import MIB, format_size

DeviceKind = Literal["gpu", "host"]

FIT_TARGET = 1024 * MIB  # what the engine's own placement leaves free on a GPU (--fit-target)
WITHOUT_FLASH = frozenset({"grok"})  # the engine switches flash attention off for these

FLASH_DROPPED = (
    "Flash attention is planned as off: the engine's «auto» drops it where a layer's attention can't run "
    "on the layer's own device."
)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A place for buffers. ``free_bytes`` is what the engine may take before reserve; None is unknown."""

    name: str
    kind: DeviceKind
    free_bytes: int | None = None
    total_bytes: int | None = None


def held_by_others(devices: tuple[Device, ...]) -> int | None:
    """Bytes of the GPU that are in use before the engine starts. None: not known, or not one GPU."""
    cards = [device for device in devices if device.kind == "gpu"]
    if len(cards) != 1 or cards[0].total_bytes is None or cards[0].free_bytes is None:
        return None
    return cards[0].total_bytes - cards[0].free_bytes


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
    """What one setting of one model needs, where. ``gaps`` tells what is unknown or assumed.

    ``knobs`` are the planned ones: layers beyond the last cut off, the engine's choice filled in.
    """

    knobs: KnobValues
    devices: tuple[DevicePlan, ...]
    reserve_bytes: int
    fits: bool | None
    margin_bytes: int | None  # of the tightest GPU after reserve; negative: by how much it does not fit
    known_architecture: bool
    overhead_source: str
    bounds: tuple[Bounds, ...] = ()
    gaps: tuple[str, ...] = ()


class Terms(NamedTuple):
    """Bytes by term, each as (GPU, host), and the same as bounds where the graph is a guess."""

    model: tuple[int, int]
    context: tuple[int, int]
    compute: tuple[int, int]
    compute_low: tuple[int, int] | None = None

    def gpu(self) -> int:
        """What the engine would report for the GPU."""
        return self.model[0] + self.context[0] + self.compute[0]


def plan_memory(
    inspection: Inspection,
    knobs: KnobValues,
    devices: tuple[Device, ...],
    *,
    reserve_bytes: int | None = None,
    calibration: Calibration | None = None,
    growth_bytes: int = 0,
    tenants_bytes: int = 0,
    outputs: Outputs | None = None,
) -> MemoryPlan:
    """Plan one setting on one GPU and the host, or on the host alone. Pure.

    The reserve is, unless given, 128 MiB + what soaks saw growing + what other tenants still may take.
    ``outputs``: «every» plans logits for each token of a micro-batch, as ``llama-fit-params`` does and as is
    never too little; «slots» as a ``llama-server`` does that limits its outputs. The calibration knows which.

    Raises UsageError for a setting that the engine refuses.
    """
    gpu = next((device for device in devices if device.kind == "gpu"), None)
    host = next((device for device in devices if device.kind == "host"), Device(name="host", kind="host"))
    if outputs is None:
        outputs = calibration.outputs if calibration else "every"
    context, source = overhead.device_overhead(calibration, inspection.beside_bytes)
    gaps = [*inspection.gaps, *_assumptions(knobs, devices, gpu)]
    if reserve_bytes is None:
        reserve_bytes = overhead.DEFAULT_RESERVE + growth_bytes + tenants_bytes
    if knobs.gpu_layers is None:
        # what the engine takes once it computes is not there yet when it chooses
        standing = context - overhead.CUDA_RUNTIME
        knobs, gap = _engines_choice(inspection, knobs, gpu, standing, outputs)
        gaps.append(gap)
    layers = inspection.layers + 1
    knobs = knobs.with_(gpu_layers=min(knobs.gpu_layers or 0, layers) if gpu else 0)
    terms, flash_gap = plan_terms(inspection, knobs, gpu=gpu is not None, outputs=outputs)
    gaps += flash_gap
    known = recipes.is_known(inspection.architecture) and terms.compute_low is None
    logits = overhead.output_buffer(inspection.vocabulary, knobs.parallel)
    planned = []
    if gpu is not None:
        planned.append(_device(gpu, terms, calibration, extra=context, reserve=reserve_bytes))
    planned.append(_device(host, terms, calibration, extra=logits, reserve=0))
    bounds: tuple[Bounds, ...] = ()
    if not known:
        bounds = _bounds(planned, terms)
        gaps.append(
            f"The graph of «{inspection.architecture}» is not known: compute buffers are planned as those "
            "of a plain transformer with the same weights, and lie between the bounds."
        )
    first = planned[0]
    margin = None
    if first.kind == "gpu" and first.free_bytes is not None:
        margin = first.free_bytes - first.need_bytes - reserve_bytes
    return MemoryPlan(
        knobs=knobs,
        devices=tuple(planned),
        reserve_bytes=reserve_bytes,
        fits=_all_fit(planned),
        margin_bytes=margin,
        known_architecture=known,
        overhead_source=source if gpu else "no GPU; on the host the buffer of finished logits",
        bounds=bounds,
        gaps=tuple(dict.fromkeys(gaps)),
    )


def plan_terms(
    inspection: Inspection, knobs: KnobValues, *, gpu: bool, outputs: Outputs = "every"
) -> tuple[Terms, list[str]]:
    """The engine's own three terms for a setting with a number of layers, and gaps. Uncalibrated."""
    placement = place(inspection, knobs.gpu_layers or 0, knobs.cpu_moe, gpu=gpu)
    flash = resolve_flash(inspection, knobs, placement)
    gaps = [FLASH_DROPPED] if flash == "dropped" else []
    setup = setup_for(inspection, knobs, flash=flash, every_output=outputs == "every")
    model = weight_bytes(inspection, placement)
    context = cache_bytes(inspection, setup, placement)
    try:
        made = compute_bytes(inspection, setup, placement)
    except MissingWeight:
        low, high = rough_compute(inspection, setup, placement)
        return Terms(model, context, high, low), gaps
    compute = (made.gpu, made.host)
    if recipes.is_known(inspection.architecture):
        return Terms(model, context, compute), gaps
    low, high = rough_compute(inspection, setup, placement)
    worst = (max(compute[0], high[0]), max(compute[1], high[1]))
    return Terms(model, context, worst, (min(compute[0], low[0]), min(compute[1], low[1]))), gaps


def resolve_flash(inspection: Inspection, knobs: KnobValues, placement: Placement) -> Flash:
    """Whether the engine will use flash attention. Raises UsageError for what it refuses.

    «auto» is dropped where a layer's attention would not run on the layer's own device.
    """
    if quantised(knobs.kv_type) and knobs.flash_attn == "off":
        raise UsageError(
            f"A {knobs.kv_type} cache needs flash attention: the engine refuses this.",
            hint="Use --flash-attn on, or --kv-type f16.",
        )
    if inspection.architecture in WITHOUT_FLASH or knobs.flash_attn == "off":
        return "off"
    if knobs.flash_attn == "on" or quantised(knobs.kv_type) or not placement.gpu:
        return "on"
    try:
        stays = flash_stays_home(inspection, setup_for(inspection, knobs), placement)
    except MissingWeight:
        return "on"
    return "on" if stays else "dropped"


def _device(
    device: Device, terms: Terms, calibration: Calibration | None, *, extra: int, reserve: int
) -> DevicePlan:
    index = 0 if device.kind == "gpu" else 1

    def corrected(term: Term, value: int) -> int:
        if calibration is None or not value:
            return value
        return calibration.correct(device.kind, term, value)

    model = corrected("model", terms.model[index])
    context = corrected("context", terms.context[index])
    compute = corrected("compute", terms.compute[index])
    need = model + context + compute + extra + reserve
    fits: bool | None = None
    if device.free_bytes is not None:
        fits = need <= device.free_bytes
        if not fits and terms.compute_low is not None:
            least = need - compute + terms.compute_low[index]
            fits = None if least <= device.free_bytes else False
    return DevicePlan(
        name=device.name,
        kind=device.kind,
        model_bytes=model,
        context_bytes=context,
        compute_bytes=compute,
        overhead_bytes=extra,
        free_bytes=device.free_bytes,
        fits=fits,
    )


def _all_fit(planned: list[DevicePlan]) -> bool | None:
    """What the devices with known room say: one that does not fit decides; nothing known is None."""
    known = [device.fits for device in planned if device.free_bytes is not None]
    if not known:
        return None
    if False in known:
        return False
    return None if None in known else True


def _bounds(planned: list[DevicePlan], terms: Terms) -> tuple[Bounds, ...]:
    why = "the architecture's graph is not known"
    low = terms.compute_low or terms.compute
    offset = 2 - len(planned)
    return tuple(
        Bounds(
            device=device.name,
            term="compute",
            low_bytes=low[index + offset],
            high_bytes=terms.compute[index + offset],
            why=why,
        )
        for index, device in enumerate(planned)
    )


def _assumptions(knobs: KnobValues, devices: tuple[Device, ...], gpu: Device | None) -> list[str]:
    gaps = []
    gpus = [device.name for device in devices if device.kind == "gpu"]
    if len(gpus) > 1:
        gaps.append(f"A split over several GPUs is not planned: all is planned on {gpus[0]}.")
    if gpu is None and knobs.gpu_layers:
        gaps.append("There is no GPU: all layers are planned on the host.")
    if knobs.ubatch > knobs.batch:
        gaps.append(
            f"The engine cuts the micro-batch to the batch: {knobs.batch} is planned, not {knobs.ubatch}."
        )
    return gaps


def _engines_choice(
    inspection: Inspection, knobs: KnobValues, gpu: Device | None, context: int, outputs: Outputs
) -> tuple[KnobValues, str]:
    """The layers that the engine's own placement would take: as many as leave 1 GiB of the GPU free."""
    most = inspection.layers + 1
    if gpu is None:
        return knobs.with_(gpu_layers=0), "There is no GPU: all layers are planned on the host."
    if gpu.free_bytes is None:
        return (
            knobs.with_(gpu_layers=most),
            "The engine chooses the layers; planned with all of them, since the GPU's room is not known.",
        )
    room = gpu.free_bytes - context - FIT_TARGET

    def left(layers: int) -> int:
        terms, _ = plan_terms(inspection, knobs.with_(gpu_layers=layers), gpu=True, outputs=outputs)
        return room - terms.gpu()

    # weights and caches tell nearly where it ends, so few graphs are needed
    setup = setup_for(inspection, knobs, flash="off" if knobs.flash_attn == "off" else "on")
    caches = [layer_bytes(inspection, layer, setup) for layer in reversed(range(most - 1))]
    pairs = zip(gpu_weights(inspection, knobs.cpu_moe), [0, 0, *accumulate(caches)], strict=True)
    held = [weights + cache for weights, cache in pairs]
    layers = most
    while layers and (missing := -left(layers)) > 0:
        layers = min(layers - 1, max(0, bisect_right(held, held[layers] - missing) - 1))
    while layers < most and left(layers + 1) >= 0:
        layers += 1
    return (
        knobs.with_(gpu_layers=layers),
        f"The engine chooses the layers; planned with {layers} of {most}, as many as leave "
        f"{format_size(FIT_TARGET)} free.",
    )
