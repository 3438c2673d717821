"""The largest context for each number of GPU layers and KV type, quickly.

Weights and caches are linear in layers and cells, so they are summed once. The compute buffer is simulated at
two contexts; between them the sizes of tensors grow evenly, and only the allocator is run.

For many layer counts at once a shortened model is simulated, which keeps one of each kind of layer. That is
exact with all layers on the GPU. With some on the host, free blocks between fetched weights depend on the
order of the layers: 40 of 640 settings of 81 models were off by more than 1 MiB, from 145 MiB too little to
255 too much. One layer count alone is simulated in full.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import msgspec

from narthex.knobs import KnobValues
from narthex.memory import overhead, recipes
from narthex.memory.arena import Tape
from narthex.memory.blocks import MissingWeight, Setup
from narthex.memory.bounds import rough_compute
from narthex.memory.calibrate import Calibration, Outputs, Term
from narthex.memory.compute import compute_tape
from narthex.memory.kv_cache import CELL_STEP, layer_bytes, quantised, setup_for
from narthex.memory.plan import WITHOUT_FLASH, Device, resolve_flash
from narthex.memory.weights import Placement, gpu_weights, place
from narthex.models.inspection import Inspection

KV_TYPES = ("f16", "q8_0", "q4_0")
LONGEST = 2**20  # where a file does not tell its trained length
GRID = 32  # coarse steps of the context


class FrontierRow(msgspec.Struct, frozen=True, kw_only=True):
    """The largest context of one slot that fits; 0 where none does."""

    gpu_layers: int  # output layer counted
    kv_type: str
    num_ctx: int
    limited_by: Literal["memory", "training", "nothing fits"]


class Room(NamedTuple):
    """What there is on the GPU, and how plans are corrected: the keywords of ``plan_memory``."""

    reserve_bytes: int | None = None
    calibration: Calibration | None = None
    growth_bytes: int = 0
    tenants_bytes: int = 0
    outputs: Outputs | None = None

    def of(self, gpu: Device, beside_bytes: int) -> int:
        """Bytes for the engine's own three terms; ``beside_bytes`` as in the inspection."""
        reserve = self.reserve_bytes
        if reserve is None:
            reserve = overhead.DEFAULT_RESERVE + self.growth_bytes + self.tenants_bytes
        taken = overhead.device_overhead(self.calibration, beside_bytes)[0]
        return (gpu.free_bytes or 0) - taken - reserve


def frontier(
    inspection: Inspection,
    knobs: KnobValues,
    devices: tuple[Device, ...],
    *,
    gpu_layers: int | None = None,
    kv_types: tuple[str, ...] = KV_TYPES,
    **room: Any,
) -> tuple[FrontierRow, ...]:
    """One row for each number of layers (or for ``gpu_layers`` alone) and KV type, most layers first.

    Empty where no GPU's free memory is known. Micro-batch, slots and the rest stay as in ``knobs``; ``room``
    are the keywords of ``plan_memory``.
    """
    most = inspection.layers + 1
    counts = [min(gpu_layers, most)] if gpu_layers is not None else list(range(most, -1, -1))
    rows = []
    for kv_type in kv_types:
        search = _search(inspection, knobs.with_(kv_type=kv_type), devices, Room(**room), len(counts) == 1)
        if search is not None:
            rows += [search.row(layers) for layers in counts]
    return tuple(rows)


def largest_ctx(inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...], **room: Any) -> int:
    """The largest context for the layers and KV type in ``knobs``; 0 where none fits."""
    layers = inspection.layers + 1 if knobs.gpu_layers is None else knobs.gpu_layers
    search = _search(inspection, knobs, devices, Room(**room), in_full=True)
    return search.row(min(layers, inspection.layers + 1)).num_ctx if search else 0


def most_layers(
    inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...], **room: Any
) -> int | None:
    """The most GPU layers for the context and KV type in ``knobs``; None where not even 0 fit."""
    quick = _search(inspection, knobs, devices, Room(**room), in_full=False)
    exact = _search(inspection, knobs, devices, Room(**room), in_full=True)
    if quick is None or exact is None:
        return None
    counts = [-1, *range(inspection.layers + 2)]
    at = _last_true(lambda i: quick.fits(counts[i], knobs.num_ctx), len(counts))
    while at and not exact.fits(counts[at], knobs.num_ctx):
        at -= 1
    return counts[at] if at else None


def _search(
    inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...], room: Room, in_full: bool
) -> _Search | None:
    gpu = next((device for device in devices if device.kind == "gpu"), None)
    if gpu is None or gpu.free_bytes is None or (quantised(knobs.kv_type) and knobs.flash_attn == "off"):
        return None
    return _Search(inspection, knobs, room, room.of(gpu, inspection.beside_bytes), in_full)


class _Search:
    """Largest contexts for one KV type."""

    def __init__(
        self, inspection: Inspection, knobs: KnobValues, room: Room, free: int, in_full: bool
    ) -> None:
        self.inspection, self.knobs, self.free, self.in_full = inspection, knobs, free, in_full
        self.calibration = room.calibration
        self.outputs = room.outputs or (room.calibration.outputs if room.calibration else "every")
        self.weights = gpu_weights(inspection, knobs.cpu_moe)
        trained = inspection.context_train
        self.longest = max(trained - trained % CELL_STEP, CELL_STEP) if trained else LONGEST
        window = max((shape.window or 0 for shape in inspection.layer_shapes), default=0)
        self.full = -(-(window + knobs.ubatch) // CELL_STEP) * CELL_STEP
        self.curves: dict[tuple[object, ...], _Curve] = {}
        self.kinds = ([], []) if in_full else _kinds(inspection)
        self.slopes, self.starts = self._cache_lines()

    def fits(self, layers: int, ctx: int) -> bool:
        """Whether a context fits with a number of layers."""
        return self._left(layers, ctx, self._curve(layers).at(-(-ctx // CELL_STEP) * CELL_STEP)) >= 0

    def _left(self, layers: int, ctx: int, compute: int) -> int:
        """Bytes that are left on the GPU."""
        weights = self._corrected("model", self.weights[layers])
        cache = self._corrected("context", self._cache(layers, ctx))
        return self.free - weights - cache - self._corrected("compute", compute)

    def row(self, layers: int) -> FrontierRow:
        """The row for a number of layers."""
        curve = self._curve(layers)

        def fits(ctx: int) -> bool:
            return not ctx or self._left(layers, ctx, curve.at(ctx)) >= 0

        ctx = self.longest
        if not fits(ctx):
            # coarse steps first: their simulations are shared by all rows of the same kind
            low, high = _last_true(lambda i: fits(curve.grid[i]), len(curve.grid) - 1), 0
            low, high = curve.grid[low], curve.grid[low + 1]
            ends = (curve.at(max(low, CELL_STEP)), curve.at(high))

            def between(step: int) -> bool:
                ctx = low + step * CELL_STEP
                share = (ctx - low) / (high - low)
                return self._left(layers, ctx, round(ends[0] + share * (ends[1] - ends[0]))) >= 0

            ctx = low + CELL_STEP * _last_true(between, (high - low) // CELL_STEP)
            if not fits(ctx):  # the allocator's peak can jump up and down between two contexts
                ctx = low + CELL_STEP * _last_true(
                    lambda step: fits(low + step * CELL_STEP), (ctx - low) // CELL_STEP
                )
        limited: Literal["memory", "training", "nothing fits"] = "memory" if ctx else "nothing fits"
        return FrontierRow(
            gpu_layers=layers,
            kv_type=self.knobs.kv_type,
            num_ctx=ctx,
            limited_by="training" if ctx == self.longest else limited,
        )

    def _corrected(self, term: Term, value: int) -> int:
        return self.calibration.correct("gpu", term, value) if self.calibration and value else value

    # ---- caches: linear in cells, and in window cells

    def _setup(self, ctx: int) -> Setup:
        off = self.knobs.flash_attn == "off" or self.inspection.architecture in WITHOUT_FLASH
        return setup_for(self.inspection, self.knobs.with_(num_ctx=ctx), flash="off" if off else "on")

    def _cache_lines(self) -> tuple[list[int], list[int]]:
        """Sums from the last layer on, of bytes a 256 cells and of what does not grow (windows, states)."""
        blocks = self.full // CELL_STEP
        setups = self._setup(self.full), self._setup(self.full + CELL_STEP)
        steps, fixed = [], []
        for layer in reversed(range(self.inspection.layers)):
            at, more = (layer_bytes(self.inspection, layer, setup) for setup in setups)
            steps.append(more - at)
            fixed.append(at - (more - at) * blocks)
        return [0, *accumulate(steps)], [0, *accumulate(fixed)]

    def _cache(self, layers: int, ctx: int) -> int:
        """Bytes of the caches of the last ``layers − 1`` layers."""
        count = max(layers - 1, 0)
        if ctx >= self.full:
            return self.slopes[count] * -(-ctx // CELL_STEP) + self.starts[count]
        setup, end = self._setup(ctx), self.inspection.layers
        return sum(layer_bytes(self.inspection, layer, setup) for layer in range(end - count, end))

    # ---- compute buffers

    def _curve(self, layers: int) -> _Curve:
        placement = place(self.inspection, layers, self.knobs.cpu_moe)
        kept: list[int] | None = None
        key: tuple[object, ...] = (layers,)
        if not self.in_full:
            kept, key = self._kept(placement.first)
        if key not in self.curves:
            self.curves[key] = _Curve(self._simulation(placement, kept), self.full, self.longest)
        return self.curves[key]

    def _simulation(self, placement: Placement, kept: list[int] | None) -> Callable[[int], Tape]:
        flash = resolve_flash(self.inspection, self.knobs, placement)
        every = self.outputs == "every"
        known = recipes.is_known(self.inspection.architecture)

        def simulate(ctx: int) -> Tape:
            setup = setup_for(self.inspection, self.knobs.with_(num_ctx=ctx), flash=flash, every_output=every)
            if known:
                try:
                    return compute_tape(self.inspection, setup, placement, layers=kept)[0]
                except MissingWeight:
                    pass
            return Tape((1,), [0], [0], [rough_compute(self.inspection, setup, placement)[1][0]])

        return simulate

    def _kept(self, first: int) -> tuple[list[int], tuple[object, ...]]:
        """Layers that stand for all, and what they are: one of each kind on each device, and the last one."""
        on_host, on_gpu = self.kinds
        kept, what = [], []
        last = self.inspection.layers - 1 - self.inspection.nextn_layers  # speculative heads are not run
        for layer in range(last + 1):
            kind = (on_gpu[layer], True) if layer >= first else (on_host[layer], False)
            if kind not in what or layer == last:
                kept.append(layer)
                what.append(kind)
        return kept, (*sorted(what[:-1]), what[-1], first > self.inspection.layers)


class _Curve:
    """A GPU's compute buffer over the context: simulated where it is asked for, and remembered.

    From ``full`` on, where windows and micro-batches are as large as they get, the graph's tensors grow
    evenly: there two simulations are enough, and the allocator is run alone.
    """

    def __init__(self, simulate: Callable[[int], Tape], full: int, longest: int) -> None:
        self.simulate = simulate
        self.full, self.longest = full, longest
        self.points: dict[int, int] = {}
        self.ends: tuple[Tape, Tape] | None = None
        steps = {longest * i // GRID // CELL_STEP * CELL_STEP for i in range(GRID + 1)}
        self.grid = sorted(steps | {0, longest})

    def at(self, ctx: int) -> int:
        """Bytes at a context, a multiple of 256."""
        if ctx not in self.points:
            self.points[ctx] = self._tape(ctx).peaks()[0]
        return self.points[ctx]

    def _tape(self, ctx: int) -> Tape:
        if not self.full < ctx < self.longest:
            return self.simulate(ctx)
        if self.ends is None:
            self.ends = self.simulate(self.full), self.simulate(self.longest)
        first, last = self.ends
        if not first.alike(last):
            return self.simulate(ctx)
        return first.towards(last, ctx - self.full, self.longest - self.full)


def _last_true(holds: Callable[[int], bool], end: int) -> int:
    """The last number below ``end`` for which ``holds`` is true, by halving; 0 is taken as true."""
    low, high = 0, end - 1
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _kinds(inspection: Inspection) -> tuple[list[int], list[int]]:
    """What tells layers apart, as numbers: on the host with the types of their weights, on the GPU without.

    Weights on the host are fetched by the GPU for large batches, so their sizes count there.
    """
    weights: list[list[tuple[str, tuple[int, ...], str]]] = [[] for _ in range(inspection.layers)]
    for tensor in inspection.tensors:
        head, _, rest = tensor.name.partition(".")
        number, _, name = rest.partition(".")
        if head == "blk" and number.isdecimal() and int(number) < inspection.layers:
            weights[int(number)].append((name, tensor.dims, tensor.type_name))
    host: dict[object, int] = {}
    gpu: dict[object, int] = {}
    on_host, on_gpu = [], []
    for shape, held in zip(inspection.layer_shapes, weights, strict=True):
        what = (shape.attention, shape.kv_heads, shape.key_length, shape.state_bytes)
        held.sort()
        on_host.append(host.setdefault((what, tuple(held)), len(host)))
        on_gpu.append(gpu.setdefault((what, tuple(name for name, *_ in held)), len(gpu)))
    return on_host, on_gpu
