"""The largest context for each number of GPU layers and KV type, quickly.

Weights and caches are linear in layers and cells, so they are summed once. The compute buffer is simulated on
a shortened model, which keeps two of each kind of layer, at a few contexts; between them it is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Literal

import msgspec

from narthex.knobs import KnobValues
from narthex.memory import overhead
from narthex.memory.calibrate import Calibration, Outputs, Term
from narthex.memory.compute import compute_bytes
from narthex.memory.kv_cache import CELL_STEP, layer_bytes, quantised, setup_for
from narthex.memory.plan import WITHOUT_FLASH, Device, resolve_flash
from narthex.memory.weights import place, weight_bytes
from narthex.models.inspection import Inspection

KV_TYPES = ("f16", "q8_0", "q4_0")
LONGEST = 2**20  # where a file does not tell its trained length
KEPT_ON_GPU, KEPT_ON_HOST = 2, 2  # of each kind
GRID = 32  # coarse steps of the context


class FrontierRow(msgspec.Struct, frozen=True, kw_only=True):
    """The largest context of one slot that fits; 0 where none does."""

    gpu_layers: int  # output layer counted
    kv_type: str
    num_ctx: int
    limited_by: Literal["memory", "training", "nothing fits"]


def frontier(
    inspection: Inspection,
    knobs: KnobValues,
    devices: tuple[Device, ...],
    *,
    gpu_layers: int | None = None,
    kv_types: tuple[str, ...] = KV_TYPES,
    reserve_bytes: int | None = None,
    calibration: Calibration | None = None,
    growth_bytes: int = 0,
    tenants_bytes: int = 0,
    outputs: Outputs | None = None,
) -> tuple[FrontierRow, ...]:
    """One row for each number of layers (or for ``gpu_layers`` alone) and KV type, most layers first.

    Empty where no GPU's free memory is known. Micro-batch, slots and the rest stay as in ``knobs``.
    """
    gpu = next((device for device in devices if device.kind == "gpu"), None)
    if gpu is None or gpu.free_bytes is None:
        return ()
    if reserve_bytes is None:
        reserve_bytes = overhead.DEFAULT_RESERVE + growth_bytes + tenants_bytes
    context, _ = overhead.device_overhead(calibration)
    room = gpu.free_bytes - context - reserve_bytes
    if outputs is None:
        outputs = calibration.outputs if calibration else "every"
    most = inspection.layers + 1
    counts = [min(gpu_layers, most)] if gpu_layers is not None else list(range(most, -1, -1))
    rows = []
    weights = {n: weight_bytes(inspection, place(inspection, n, knobs.cpu_moe))[0] for n in counts}
    for kv_type in kv_types:
        if quantised(kv_type) and knobs.flash_attn == "off":
            continue
        search = _Search(inspection, knobs.with_(kv_type=kv_type), calibration, outputs)
        rows += [search.row(layers, room, weights[layers]) for layers in counts]
    return tuple(rows)


def largest_ctx(
    inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...], **options: object
) -> int:
    """The largest context for the layers and KV type in ``knobs``; 0 where none fits."""
    rows = frontier(
        inspection,
        knobs,
        devices,
        gpu_layers=knobs.gpu_layers,
        kv_types=(knobs.kv_type,),
        **options,  # type: ignore[arg-type]
    )
    return rows[0].num_ctx if rows else 0


def most_layers(
    inspection: Inspection, knobs: KnobValues, devices: tuple[Device, ...], **options: object
) -> int | None:
    """The most GPU layers for the context and KV type in ``knobs``; None where not even 0 fit."""
    rows = frontier(inspection, knobs, devices, kv_types=(knobs.kv_type,), **options)  # type: ignore[arg-type]
    return next((row.gpu_layers for row in rows if row.num_ctx >= knobs.num_ctx), None)


class _Search:
    """Largest contexts for one KV type."""

    def __init__(
        self,
        inspection: Inspection,
        knobs: KnobValues,
        calibration: Calibration | None,
        outputs: Outputs,
    ) -> None:
        self.inspection, self.knobs = inspection, knobs
        self.calibration, self.outputs = calibration, outputs
        trained = inspection.context_train
        self.longest = max(trained - trained % CELL_STEP, CELL_STEP) if trained else LONGEST
        self.curves: dict[tuple[object, ...], _Curve] = {}
        self.kinds = _kinds(inspection)
        self.slopes, self.starts = self._cache_lines()

    def row(self, layers: int, room: int, weights: int) -> FrontierRow:
        """The row for a number of layers: ``room`` is for the engine's own three terms."""
        room -= self._corrected("model", weights)
        curve = self._curve(layers)

        def left(ctx: int, compute: int) -> int:
            cache = self._corrected("context", self._cache(layers, ctx))
            return room - cache - self._corrected("compute", compute)

        def fits(ctx: int) -> bool:
            return not ctx or left(ctx, curve.at(ctx)) >= 0

        ctx = self.longest
        if not fits(ctx):
            # coarse steps first: their simulations are shared by all rows of the same kind
            low, high = _last_true(lambda i: fits(curve.grid[i]), len(curve.grid) - 1), 0
            low, high = curve.grid[low], curve.grid[low + 1]
            ends = (curve.at(max(low, CELL_STEP)), curve.at(high))

            def between(step: int) -> bool:
                ctx = low + step * CELL_STEP
                share = (ctx - low) / (high - low)
                return left(ctx, round(ends[0] + share * (ends[1] - ends[0]))) >= 0

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

    def _cache_lines(self) -> tuple[list[int], list[int]]:
        """Suffix sums over layers of bytes a 256 cells, and of what does not grow (windows, states)."""
        off = self.knobs.flash_attn == "off" or self.inspection.architecture in WITHOUT_FLASH
        setup = setup_for(self.inspection, self.knobs, flash="off" if off else "on")
        wide = setup._replace(cells=setup.cells + CELL_STEP)
        at = [layer_bytes(self.inspection, layer, setup) for layer in range(self.inspection.layers)]
        more = [layer_bytes(self.inspection, layer, wide) for layer in range(self.inspection.layers)]
        steps = [m - a for m, a in zip(more, at, strict=True)]
        slopes = [*accumulate(reversed(steps)), 0]
        blocks = setup.cells // CELL_STEP
        fixed = [a - step * blocks for a, step in zip(at, steps, strict=True)]
        starts = [*accumulate(reversed(fixed)), 0]
        return slopes, starts

    def _cache(self, layers: int, ctx: int) -> int:
        """Bytes of the last ``layers − 1`` layers' caches; windows as large as they get."""
        count = min(layers - 1, self.inspection.layers)
        if count <= 0:
            return 0
        return self.slopes[count - 1] * (ctx // CELL_STEP) + self.starts[count - 1]

    # ---- compute buffers

    def _curve(self, layers: int) -> _Curve:
        placement = place(self.inspection, layers, self.knobs.cpu_moe)
        kept, what = self._kept(placement.first)
        key = (*what, layers > 0)
        if key not in self.curves:
            flash = resolve_flash(self.inspection, self.knobs, placement, layers=kept)

            def simulate(ctx: int) -> int:
                knobs = self.knobs.with_(num_ctx=ctx, gpu_layers=layers)
                setup = setup_for(self.inspection, knobs, flash=flash, every_output=self.outputs == "every")
                return compute_bytes(self.inspection, setup, placement, layers=kept).gpu

            self.curves[key] = _Curve(simulate, self.longest)
        return self.curves[key]

    def _kept(self, first: int) -> tuple[list[int], tuple[object, ...]]:
        """Layers that stand for all, and what they are: two of each kind on each device, and the last one."""
        on_host, on_gpu = self.kinds
        seen: dict[tuple[int, bool], int] = {}
        kept, what = [], []
        last = len(on_host) - 1
        for layer in range(last + 1):
            key = (on_gpu[layer], True) if layer >= first else (on_host[layer], False)
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= (KEPT_ON_GPU if key[1] else KEPT_ON_HOST) or layer == last:
                kept.append(layer)
                what.append(key)
        return kept, (*sorted(what[:-1]), what[-1])


class _Curve:
    """A compute buffer over the context: simulated where it is asked for, and remembered."""

    def __init__(self, simulate: Callable[[int], int], longest: int) -> None:
        self.simulate = simulate
        self.points: dict[int, int] = {}
        steps = {longest * i // GRID // CELL_STEP * CELL_STEP for i in range(GRID + 1)}
        self.grid = sorted(steps | {0, longest})

    def at(self, ctx: int) -> int:
        """Bytes at a context."""
        if ctx not in self.points:
            self.points[ctx] = self.simulate(ctx)
        return self.points[ctx]


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
