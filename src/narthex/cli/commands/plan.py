"""``narthex plan``: bytes per device before a load, whether it fits, and the way out where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from narthex.cli.options import engine_option, json_option, knob_option, model_argument, ollama_option
from narthex.errors import JournalError, NarthexError
from narthex.knobs import KnobValues, parse_knob
from narthex.memory.plan import Device, MemoryPlan, held_by_others, plan_memory
from narthex.models.inspection import Inspection
from narthex.units import MIB, format_count, format_loads, format_size, parse_size

if TYPE_CHECKING:
    from narthex.cli.target import Subject
    from narthex.engines._base import DeviceBuffers
    from narthex.memory.calibrate import Calibration
    from narthex.memory.frontier import FrontierRow

_KNOBS = ("num_ctx", "gpu_layers", "batch", "ubatch", "kv_type", "flash_attn", "parallel", "cpu_moe")


@click.command()
@model_argument
@knob_option("num_ctx")
@knob_option("gpu_layers")
@knob_option("batch")
@knob_option("ubatch")
@knob_option("kv_type")
@knob_option("flash_attn")
@knob_option("parallel")
@knob_option("cpu_moe")
@click.option("--vram", metavar="SIZE", help="Plan for one empty GPU of this size (20GB, 20475MiB).")
@click.option("--reserve", metavar="SIZE", help="Keep this much of the GPU free; the default is 128 MiB.")
@click.option("--witness", is_flag=True, help="Ask the engine's own dry run too (about a second).")
@engine_option
@ollama_option
@json_option
def command(model: str, as_json: bool, **given: Any) -> None:
    """Bytes per device before a load, and whether it fits. Nothing is loaded.

    Without --ctx or --gpu-layers the largest context for each layer count and KV type is listed too.
    MODEL is a .gguf file (any part of a split one), «demo» for the built-in model, or a name in Ollama:
    then KV type, slots and one batch for all are those of the server.
    """
    from narthex import settings
    from narthex.cli.target import find_subject

    vram, reserve = given["vram"], given["reserve"]
    subject = find_subject(model, engine=given["engine"], ollama=given["ollama"])
    inspection = subject.inspection
    asked = _asked(inspection, given)
    kv_types: dict[str, Any] = {}
    engine_key, outputs = None, "every"
    if subject.server is None:
        knobs = _knobs(inspection, asked)
        devices, gaps = _devices(vram)
    else:
        from narthex.cli.served_plan import served_plan

        served = served_plan(subject, asked, vram)
        knobs, gaps, engine_key = served.knobs, served.gaps, served.engine_key
        outputs = served.outputs
        devices, more = _devices(vram) if served.devices is None else (served.devices, ())
        gaps, kv_types = (*gaps, *more), {"kv_types": (knobs.kv_type,)}
    calibration, growth, tenants = None, 0, 0
    if not vram:
        try:
            calibration, growth, tenants = _learned(inspection, held_by_others(devices), engine_key)
        except JournalError as error:  # a plan needs no journal
            gaps = (*gaps, f"What earlier loads taught is not known: {error.message}")
    options: dict[str, Any] = {
        "reserve_bytes": settings.get("reserve") if reserve is None else parse_size(reserve),
        "calibration": calibration,
        "growth_bytes": growth,
        "tenants_bytes": tenants,
    }
    if calibration is None:  # else it knows which kind of build it learned from
        options["outputs"] = outputs
    plan = plan_memory(inspection, knobs, devices, **options)
    server = None
    if calibration is None and outputs == "every":
        server = plan_memory(inspection, plan.knobs, devices, **{**options, "outputs": "slots"})
    rows: tuple[FrontierRow, ...] = ()
    if given["num_ctx"] is None or given["gpu_layers"] is None:
        from narthex.memory.frontier import frontier

        layers = None if given["gpu_layers"] in (None, "auto") else plan.knobs.gpu_layers
        rows = frontier(inspection, plan.knobs, devices, gpu_layers=layers, **kv_types, **options)
    buffers, failed = _witness(subject, plan.knobs) if given["witness"] else ((), None)
    gaps = (*gaps, *plan.gaps, *([failed] if failed else []))
    answer = Answer(plan, server, rows, buffers, gaps, calibration)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(as_data(answer)), indent=2))
        return
    way_out = "" if plan.fits is not False else _way_out(inspection, plan, devices, options)
    click.echo(as_text(inspection, answer, way_out))


def _asked(inspection: Inspection, given: dict[str, Any]) -> dict[str, Any]:
    """The knobs that were given, parsed."""
    return {
        name: parse_knob(name, text, layers=inspection.layers)
        for name in _KNOBS
        if (text := given[name]) is not None
    }


def _knobs(inspection: Inspection, asked: dict[str, Any]) -> KnobValues:
    values = dict(asked)
    if "num_ctx" not in values and inspection.context_train:
        values["num_ctx"] = min(KnobValues().num_ctx, inspection.context_train)
    return KnobValues(**values)


def _devices(vram: str | None) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """The GPU and the host to plan for, and what is unknown about them."""
    if vram is not None:
        size = parse_size(vram)
        gpu = Device(name="GPU0", kind="gpu", free_bytes=size, total_bytes=size)
        return (gpu, Device(name="host", kind="host")), ()
    from narthex.host.gpu import read_gpus

    cards, gaps, _ = read_gpus()
    gpus = tuple(
        Device(name=card.name, kind="gpu", free_bytes=card.free_bytes, total_bytes=card.total_bytes)
        for card in cards
    )
    tenants = tuple(
        f"{process.name or f'process {process.pid}'} holds {format_size(process.vram_bytes)} of {card.name}."
        for card in cards
        for process in card.processes
    )
    from narthex.host.collect import read_memory

    total, free = (size or None for size in read_memory())
    return (*gpus, Device(name="host", kind="host", free_bytes=free, total_bytes=total)), (*gaps, *tenants)


def _learned(
    inspection: Inspection, held: int | None, engine_key: str | None
) -> tuple[Calibration | None, int, int]:
    """What earlier loads of this model taught, the most that its soaks saw VRAM growing, and how much more
    than now other tenants held of the card. Loads of this very engine come first, where it is known."""
    from narthex.paths import journal_path

    if not journal_path().exists():
        return None, 0, 0
    from narthex.journal.journal import Journal
    from narthex.memory.calibrate import calibrate

    with Journal.open() as journal:
        rows = journal.predictions(model_identity=inspection.identity, engine_key=engine_key)
        learned = calibrate(rows or journal.predictions(model_identity=inspection.identity))
        growth = journal.seen_growth(inspection.identity)
        tenants = 0 if held is None else journal.seen_tenants(inspection.identity, held)
    return (learned if learned.corrections else None), growth, tenants


def _witness(subject: Subject, knobs: KnobValues) -> tuple[tuple[DeviceBuffers, ...], str | None]:
    from narthex.engines.fit_params import dry_run
    from narthex.engines.llama_server import find_engine

    if not subject.model.path:
        return (), "No witness: the file can't be read from here."
    try:
        return dry_run(find_engine(), subject.model.path, knobs), None
    except NarthexError as error:
        return (), f"No witness: {error.message}"


class Answer(NamedTuple):
    """The plan and what was found out beside it.

    ``server`` is the same setting in a llama-server that works out logits for its slots only; None where
    earlier loads already told which kind of server this is.
    """

    plan: MemoryPlan
    server: MemoryPlan | None
    frontier: tuple[FrontierRow, ...]
    witness: tuple[DeviceBuffers, ...]
    gaps: tuple[str, ...]
    calibration: Calibration | None


def as_data(answer: Answer) -> dict[str, Any]:
    """What ``--json`` prints; fields may be added, never changed."""
    plan, calibration = answer.plan, answer.calibration
    return {
        "devices": list(plan.devices),
        "fits": plan.fits,
        "known_architecture": plan.known_architecture,
        "gaps": list(answer.gaps),
        "margin_bytes": plan.margin_bytes,
        "reserve_bytes": plan.reserve_bytes,
        "overhead_source": plan.overhead_source,
        "knobs": plan.knobs.as_dict(),
        "bounds": list(plan.bounds),
        "frontier": list(answer.frontier),
        "witness": list(answer.witness),
        "with_logits_for_slots_only": answer.server
        and {
            "compute_bytes": [device.compute_bytes for device in answer.server.devices],
            "fits": answer.server.fits,
            "margin_bytes": answer.server.margin_bytes,
        },
        "calibrated_by": calibration and {"engine": calibration.engine_key, "loads": calibration.loads},
    }


def as_text(inspection: Inspection, answer: Answer, way_out: str) -> str:
    """What a person reads: one row a device, the verdict, the frontier, and what is assumed."""
    plan, calibration = answer.plan, answer.calibration
    head = f"{inspection.name} · {plan.knobs.describe()}"
    table: list[tuple[str, ...]] = [("", "weights", "context", "compute", "overhead", "sum", "free")]
    for device in plan.devices:
        sizes = (
            device.model_bytes,
            device.context_bytes,
            device.compute_bytes,
            device.overhead_bytes,
            device.need_bytes,
            device.free_bytes,
        )
        table.append((device.name, *map(format_size, sizes)))
    for row in answer.witness:
        told = (row.model_bytes, row.context_bytes, row.compute_bytes)
        table.append((f"{row.device} (dry run)", *map(format_size, told), "", "", ""))
    parts = [head, _table(table), _verdict(plan) + way_out]
    if answer.frontier:
        parts.append("Largest context that fits, by layers on the GPU\n" + _frontier_table(answer.frontier))
    notes = [f"Overhead: {plan.overhead_source}.", *_server_note(plan, answer.server), *answer.gaps]
    if calibration:
        notes.insert(0, f"Corrected by {format_loads(calibration.loads)} of {calibration.engine_key}.")
    parts.append("\n".join(f"Note: {note}" for note in notes))
    return "\n\n".join(parts)


def _server_note(plan: MemoryPlan, server: MemoryPlan | None) -> list[str]:
    """What a llama-server that works out fewer logits would need, where that is much less."""
    if server is None:
        return []
    less = plan.devices[0].compute_bytes - server.devices[0].compute_bytes
    if less < MIB:
        return []
    fits = " and fits" if server.fits and plan.fits is False else ""
    return [
        f"Logits are planned for a whole micro-batch, as the engine's dry run does. A llama-server that "
        f"works them out for its slots only needs {format_size(less)} less{fits}."
    ]


def _verdict(plan: MemoryPlan) -> str:
    margin, reserve = plan.margin_bytes, format_size(plan.reserve_bytes)
    if plan.fits is None and margin is None:
        return "Whether it fits is not known: the free memory is not known."
    if plan.fits is None:
        return "It may fit: that depends on where between its bounds the compute buffer lies."
    if margin is not None and margin < 0:
        return f"Does not fit by {format_size(-margin)}, with {reserve} kept in reserve."
    if not plan.fits:
        host = plan.devices[-1]
        return f"Does not fit into main memory by {format_size(host.need_bytes - (host.free_bytes or 0))}."
    if margin is None:
        return "Fits."
    return f"Fits: {format_size(margin)} to spare, with {reserve} kept in reserve."


def _way_out(
    inspection: Inspection, plan: MemoryPlan, devices: tuple[Device, ...], options: dict[str, Any]
) -> str:
    """The nearest settings that fit: less context at these layers, fewer layers at this context."""
    from narthex.memory.frontier import largest_ctx, most_layers

    ways = []
    ctx = largest_ctx(inspection, plan.knobs, devices, **options)
    if ctx:
        ways.append(f"a context of {ctx:,} fits with these layers")
    layers = most_layers(inspection, plan.knobs, devices, **options)
    if layers:
        ways.append(f"{format_count(layers, 'layer')} {'fits' if layers == 1 else 'fit'} with this context")
    return f" But {', and '.join(ways)}." if ways else " No other context or layer count fits either."


def _frontier_table(rows: tuple[FrontierRow, ...]) -> str:
    kinds = list(dict.fromkeys(row.kv_type for row in rows))
    by_layers: dict[int, dict[str, FrontierRow]] = {}
    for row in rows:
        by_layers.setdefault(row.gpu_layers, {})[row.kv_type] = row
    shown, last = [], None
    counts = sorted(by_layers, reverse=True)
    for layers in counts:
        cells = tuple(_ctx(by_layers[layers][kind]) for kind in kinds)
        if cells != last or layers == counts[-1]:
            shown.append((format_count(layers, "layer"), *cells))
        last = cells
    if len(shown) > 14:  # a screenful: the ends matter most
        step = len(shown) // 12
        shown = [row for i, row in enumerate(shown) if i < 4 or i % step == 0 or i == len(shown) - 1]
    return _table([("", *(f"kv {kind}" for kind in kinds)), *shown])


def _ctx(row: FrontierRow) -> str:
    if not row.num_ctx:
        return "none"
    return f"{row.num_ctx:,}" + (" (trained length)" if row.limited_by == "training" else "")


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
