"""The space of a live study: what the planner says is near the edge of memory.

For each KV type and micro-batch the planner's frontier gives the largest context of every layer count. The
list holds, for every context of the ladder, the most layers that fit with the reserve kept, and some
below them to back off to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from narthex.engines._base import Limits
from narthex.knobs import KnobValues
from narthex.memory import overhead
from narthex.memory.calibrate import Calibration
from narthex.memory.frontier import frontier
from narthex.memory.kv_cache import cache_bytes, setup_for
from narthex.memory.plan import Device, plan_memory
from narthex.memory.weights import place
from narthex.models.inspection import Inspection
from narthex.studies.limits import AutomaticBatch, check_pins
from narthex.studies.records import Question
from narthex.studies.space import CTX_LADDER, Candidate, Space, recorded_ctx
from narthex.trials.roofline import traffic

UBATCHES = (128, 256, 512, 1024, 2048)
BATCH = 2048  # the engine's own default
BELOW_EDGE = (0, 1, 2, 4, 8, 16)  # layers below the most that fit
MOE_STEP = 2  # experts of so many layers at once
USUAL_CTX = 4096  # where none is asked for
DEMO_CTX = 2048  # a demo's soak has to fill it in seconds, even on two cores
_UNKNOWN_CTX = 32768  # where the file does not tell the training context


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a live space is made for.

    ``beside_bytes`` is what a named tenant may still take of the card, beyond what it holds already;
    ``default_ctx`` the context that the server takes where neither a request nor a model says one.
    """

    devices: tuple[Device, ...]
    cores: int | None = None
    reserve_bytes: int | None = None
    growth_bytes: int = 0
    tenants_bytes: int = 0
    beside_bytes: int = 0
    calibration: Calibration | None = None
    limits: Limits = Limits()
    automatic_batch: AutomaticBatch = None
    default_ctx: int | None = None

    @property
    def gpu(self) -> Device | None:
        """The GPU that is planned for."""
        return next((device for device in self.devices if device.kind == "gpu"), None)

    @property
    def reserve(self) -> int:
        """VRAM to leave free. The named tenant's part is not counted twice, as one of the tenants seen."""
        if self.reserve_bytes is not None:
            return self.reserve_bytes + self.beside_bytes
        tenants = max(self.tenants_bytes, self.beside_bytes)
        return overhead.DEFAULT_RESERVE + self.growth_bytes + tenants


def live_space(inspection: Inspection, machine: Machine, question: Question) -> Space:
    """Settings worth a thought for this model on this machine, with the plan's figures."""
    check_pins(question.pins)
    ladder = contexts(inspection, question)
    if machine.gpu is None:
        candidates = list(_on_cpu(inspection, machine, question, ladder))
    else:
        candidates = list(_on_gpu(inspection, machine, question, ladder))
        settled = {*question.pins, *machine.limits.fixed}
        if inspection.experts and not {"gpu_layers", "cpu_moe"} & settled:
            candidates += _experts_on_cpu(inspection, machine, question, ladder)
    if not candidates:  # by the plan nothing fits; the plan may be wrong, and only a load can tell
        candidates = list(_unplanned(inspection, machine, question, ladder[0]))
    layers = inspection.layers + 1
    return Space(
        candidates=tuple(dict.fromkeys(candidates)),
        all_layers=layers,
        min_ctx=ladder[0],
        noise_gpu=0.01,
        noise_split=0.015,
        layer_shares=tuple(
            cpu_share(inspection, KnobValues(gpu_layers=count), question) for count in range(layers + 1)
        ),
    )


def contexts(inspection: Inspection, question: Question) -> list[int]:
    """Contexts to consider, the one asked for first, none beyond what the model was trained for."""
    if fixed := question.pins.get("num_ctx"):
        return [int(fixed)]
    longest = inspection.context_train or _UNKNOWN_CTX
    usual = max(DEMO_CTX // 2 if question.demo else USUAL_CTX, recorded_ctx(question.turn))
    asked = question.min_ctx or min(usual, longest)
    if question.demo:
        longest = min(longest, max(asked, DEMO_CTX))
    return sorted({asked, *(ctx for ctx in (*CTX_LADDER, longest) if asked < ctx <= longest)})


def cpu_share(inspection: Inspection, knobs: KnobValues, question: Question) -> float:
    """Share of the bytes read for one token that lies in main memory."""
    read = traffic(inspection, knobs, depth=question.turn.depth + question.turn.prompt_tokens)
    return read.cpu_bytes / max(read.cpu_bytes + read.gpu_bytes, 1)


def _knobs(machine: Machine, question: Question, **values: object) -> KnobValues:
    quantised = values.get("kv_type", "f16") != "f16"
    usual = KnobValues(
        batch=BATCH,
        flash_attn="on" if quantised else "auto",
        parallel=question.parallel,
        threads=machine.cores,
    )
    knobs = usual.with_(**{**values, **question.pins, **machine.limits.fixed})
    return knobs.with_(batch=knobs.ubatch) if machine.limits.one_batch else knobs


def _ubatches(machine: Machine, question: Question) -> tuple[int, ...]:
    """Micro-batches worth trying; where the server has one value for both, they are batches as well."""
    if "ubatch" in question.pins:
        return (question.pins["ubatch"],)
    batch = question.pins.get("batch", BATCH)  # the engine cuts a micro-batch to it
    if machine.limits.one_batch and "batch" in question.pins:
        return (batch,)
    return tuple(ubatch for ubatch in UBATCHES if ubatch <= batch) or (batch,)


def _kv_types(machine: Machine, question: Question) -> tuple[str, ...]:
    settled = {**question.pins, **machine.limits.fixed}
    return (settled["kv_type"],) if "kv_type" in settled else question.allow_kv


def _on_gpu(
    inspection: Inspection, machine: Machine, question: Question, ladder: Sequence[int]
) -> Iterator[Candidate]:
    for ubatch in _ubatches(machine, question):
        for kv_type in _kv_types(machine, question):
            base = _knobs(machine, question, num_ctx=ladder[0], ubatch=ubatch, kv_type=kv_type)
            largest = _largest(inspection, machine, base)
            fixed = question.pins.get("gpu_layers")
            counts = _near_edge(largest, ladder) if fixed is None else [fixed] if fixed in largest else []
            for layers in counts:
                yield from _row(
                    inspection, machine, question, base.with_(gpu_layers=layers), largest[layers], ladder
                )


def _experts_on_cpu(
    inspection: Inspection, machine: Machine, question: Question, ladder: Sequence[int]
) -> Iterator[Candidate]:
    """All layers on the GPU, the experts of the first ones on the CPU: as few as each context needs."""
    layers = inspection.layers + 1
    for kv_type in _kv_types(machine, question):
        served: set[int] = set()
        for count in range(0, inspection.layers + 1, MOE_STEP):
            base = _knobs(
                machine, question, num_ctx=ladder[0], kv_type=kv_type, gpu_layers=layers, cpu_moe=count
            )
            largest = _largest(inspection, machine, base, layers).get(layers, 0)
            new = [ctx for ctx in ladder if ctx <= largest and ctx not in served]
            if count and new:
                yield from _row(inspection, machine, question, base, largest, new)
            served.update(new)
            if len(served) == len(ladder):
                break


def _largest(
    inspection: Inspection, machine: Machine, base: KnobValues, layers: int | None = None
) -> dict[int, int]:
    """Layer count → the largest context that fits with it."""
    rows = frontier(
        inspection,
        base,
        machine.devices,
        gpu_layers=layers,
        kv_types=(base.kv_type,),
        reserve_bytes=machine.reserve,
        calibration=machine.calibration,
    )
    return {row.gpu_layers: row.num_ctx for row in rows}


def _near_edge(largest: dict[int, int], ladder: Sequence[int]) -> list[int]:
    """Layer counts at, and some way below, the most that fit each context."""
    found: set[int] = set()
    for ctx in ladder:
        most = max((layers for layers, limit in largest.items() if limit >= ctx), default=None)
        if most is not None:
            found.update(most - below for below in BELOW_EDGE if most - below >= 0)
            found.add(0)  # the last resort, where even the output layer does not fit
    return sorted(found, reverse=True)


def _row(  # noqa: PLR0917 - the row is made of all of them
    inspection: Inspection,
    machine: Machine,
    question: Question,
    base: KnobValues,
    largest: int,
    ladder: Iterable[int],
) -> Iterator[Candidate]:
    """One layer count with every context that fits. At the largest one all but the reserve is in use, or
    the training ends."""
    gpu = machine.gpu
    assert gpu is not None
    share = cpu_share(inspection, base, question)
    limit = None
    if gpu.free_bytes is not None:
        beside = overhead.device_overhead(machine.calibration, inspection.beside_bytes)[0]
        limit = gpu.free_bytes - beside
    placement = place(inspection, base.gpu_layers or 0, base.cpu_moe)

    def cache(num_ctx: int) -> int:
        setup = setup_for(inspection, base.with_(num_ctx=num_ctx), flash="on", every_output=False)
        return cache_bytes(inspection, setup, placement)[0]

    full = cache(largest) if largest else 0
    at_largest = limit - machine.reserve if limit is not None else None
    if limit is not None and largest >= (inspection.context_train or largest):
        # It is the training that ends here, not the memory: only a plan tells how much is left.
        plan = plan_memory(
            inspection, base.with_(num_ctx=largest), machine.devices, calibration=machine.calibration
        )
        at_largest = plan.devices[0].planned_bytes
    wanted = set(ladder)
    if min(wanted) < largest < max(wanted):
        wanted.add(largest)
    for ctx in sorted(ctx for ctx in wanted if ctx <= largest):
        need = at_largest - (full - cache(ctx)) if at_largest is not None else None
        yield Candidate(knobs=base.with_(num_ctx=ctx), cpu_share=share, need_bytes=need, limit_bytes=limit)


def _on_cpu(
    inspection: Inspection, machine: Machine, question: Question, ladder: Sequence[int]
) -> Iterator[Candidate]:
    """No GPU: contexts that fit main memory, micro-batches, and all cores or half of them."""
    cores = machine.cores
    if "threads" in question.pins:
        cores = question.pins["threads"]
    both = cores is not None and cores >= 4 and "threads" not in question.pins
    threads = [cores, cores // 2] if both and cores else [cores]
    for ctx in ladder:
        for kv_type in _kv_types(machine, question):
            base = _knobs(machine, question, num_ctx=ctx, gpu_layers=0, kv_type=kv_type)
            host = plan_memory(inspection, base, machine.devices, calibration=machine.calibration).devices[-1]
            if host.fits is False:
                continue
            for ubatch in _ubatches(machine, question):
                batch = ubatch if machine.limits.one_batch else base.batch
                for count in threads:
                    yield Candidate(
                        knobs=base.with_(batch=batch, ubatch=ubatch, threads=count),
                        cpu_share=1.0,
                        need_bytes=host.need_bytes,
                        limit_bytes=host.free_bytes,
                    )


def _unplanned(
    inspection: Inspection, machine: Machine, question: Question, num_ctx: int
) -> Iterator[Candidate]:
    """A coarse list without the plan's figures: quarters of the layers, small and usual micro-batches."""
    every = inspection.layers + 1 if machine.gpu is not None else 0
    fixed = question.pins.get("gpu_layers")
    for layers in [fixed] if fixed is not None else sorted({every * part // 4 for part in range(5)}):
        for kv_type in _kv_types(machine, question):
            for ubatch in (128, 512) if "ubatch" not in question.pins else _ubatches(machine, question):
                knobs = _knobs(
                    machine, question, num_ctx=num_ctx, gpu_layers=layers, kv_type=kv_type, ubatch=ubatch
                )
                yield Candidate(knobs=knobs, cpu_share=cpu_share(inspection, knobs, question))
