"""What planning for a model in Ollama adds: the server's own values, its cards, and words about both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from narthex.cli.target import Subject, ollama_engine
from narthex.engines._base import Engine
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.defaults import own_load
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.options import describe_options, parameters_of
from narthex.engines.ollama.records import ApiError, Server
from narthex.errors import UsageError
from narthex.host.collect import collect_host
from narthex.host.facts import HostFacts
from narthex.knobs import BY_NAME, KnobValues
from narthex.memory.calibrate import Outputs
from narthex.memory.plan import Device
from narthex.units import format_size

_OWN = ("num_ctx", "num_gpu", "num_batch", "num_thread", "use_mmap")


class ServedPlan(NamedTuple):
    """The setting to plan, where to plan it (None: on the size that --vram says), and what to say of it."""

    knobs: KnobValues
    devices: tuple[Device, ...] | None
    gaps: tuple[str, ...]
    engine_key: str
    outputs: Outputs


def served_plan(subject: Subject, asked: dict[str, Any], vram: str | None) -> ServedPlan:
    """A plan's setting on a server: what was asked for, laid over what the server does by itself.

    What can't be asked for with a load is planned all the same, and the words say what it takes. Raises
    UsageError for two different batch sizes.
    """
    server = subject.server
    assert server is not None
    host = collect_host().within(server.memory_bytes)
    engine = ollama_engine(server, host)
    parameters, parameter_gap = own_parameters(subject)
    own = own_load(
        server,
        engine,
        parameters,
        context_train=subject.inspection.context_train,
        log=open_log(server),
    )
    knobs = _laid_over(own.knobs, asked, server, parameters)
    words = [*_limit_words(engine, asked)]
    if knobs.kv_type not in BY_NAME["kv_type"].choices:
        words.append(f"The sizes of a {knobs.kv_type} KV cache are not known here: f16 is planned instead.")
        knobs = knobs.with_(kv_type="f16")
    if "num_ctx" not in asked:
        words.append(f"The context is {own.ctx_source}.")
    if told := describe_options({name: parameters[name] for name in _OWN if name in parameters}):
        words += [f"The model's own PARAMETERs: {told}."] if told != "no options" else []
    words += [parameter_gap] if parameter_gap else []
    devices = None if vram is not None else _devices(server, engine, host)
    words += [] if vram is not None else [*engine.gaps, *_tenants(host, devices or ()), *_residents(server)]
    return ServedPlan(knobs, devices, tuple(dict.fromkeys(words)), engine.key, engine.outputs)


def _laid_over(
    own: KnobValues, asked: dict[str, Any], server: Server, parameters: dict[str, Any]
) -> KnobValues:
    from narthex.engines.ollama.eras import automatic_batch

    both = {asked[name] for name in ("batch", "ubatch") if name in asked}
    if len(both) > 1:
        raise UsageError(
            f"Batch {asked['batch']} and micro-batch {asked['ubatch']} differ; Ollama's num_batch sets both.",
            hint="Give one of the two.",
        )
    knobs = own.with_(**asked)
    if both:
        (batch,) = both
    elif "num_batch" in parameters:
        batch = own.batch
    else:
        batch = automatic_batch(server.version, knobs.num_ctx * knobs.parallel)
    return knobs.with_(batch=batch, ubatch=batch)


def _limit_words(engine: Engine, asked: dict[str, Any]) -> Iterator[str]:
    """What the server fixes: one sentence for all that was kept, one for each that was asked otherwise."""
    fixed, why = engine.limits.fixed, engine.limits.why
    shown = {"kv_type": "KV type", "flash_attn": "flash attention", "parallel": "slots"}
    kept = [
        f"{word} {fixed[name]}" for name, word in shown.items() if asked.get(name, fixed[name]) == fixed[name]
    ]
    if kept:
        yield f"The server's own, the same for every load: {', '.join(kept)}."
    for name, value in fixed.items():
        if name in asked and asked[name] != value:
            reason = f" ({why[name]})" if name in why else ""
            yield (
                f"{BY_NAME[name].flag} {asked[name]} can't be asked for with a load: the server runs with "
                f"{value}{reason}. It must be restarted with the other value first."
            )


def own_parameters(subject: Subject) -> tuple[dict[str, Any], str | None]:
    """The model's own options: typed from the store, else as the server prints them."""
    if subject.stored is not None and subject.stored.parameters is not None:
        return subject.stored.parameters, None
    assert subject.server is not None
    try:
        return dict(parameters_of(Api(subject.server.url).show(subject.model.served_as).parameters)), None
    except ApiError as error:
        return {}, f"The model's own PARAMETERs are not known: {error.text}."


def _devices(server: Server, engine: Engine, host: HostFacts) -> tuple[Device, ...]:
    """The server's card and the host. Of a server elsewhere neither size is known."""
    if server.place == "elsewhere":
        cards = [
            Device(name=each.name, kind="gpu", total_bytes=each.total_bytes or None)
            for each in engine.devices
        ]
        return (*cards, Device(name="host", kind="host"))
    from narthex.memory.calibrate import Calibration
    from narthex.studies.live import devices_of

    return devices_of(engine, host, Calibration(engine_key=None))


def _tenants(host: HostFacts, devices: tuple[Device, ...]) -> Iterator[str]:
    if not any(device.kind == "gpu" and device.free_bytes is not None for device in devices):
        return
    for card in host.gpus:
        for process in card.processes:
            name = process.name or f"process {process.pid}"
            yield f"{name} holds {format_size(process.vram_bytes)} of {card.name}."


def _residents(server: Server) -> Iterator[str]:
    """Models that are loaded now: their memory counts as taken, and narthex unloads them before a load."""
    try:
        loaded = Api(server.url).ps()
    except ApiError:
        return
    if loaded:
        names = ", ".join(resident.name for resident in loaded)
        yield (
            f"Ollama holds {names} now: what that takes does not count as free here, "
            "and a trial unloads it first."
        )
