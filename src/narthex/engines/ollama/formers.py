"""Loaded models as they were found: in words, on paper, and as the options that bring them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from narthex.engines.ollama.durations import FOREVER_S, default_keep_alive
from narthex.engines.ollama.eras import automatic_batch, default_parallel, has
from narthex.engines.ollama.notes import Former
from narthex.engines.ollama.options import command_options
from narthex.engines.ollama.records import Resident, Server
from narthex.engines.ollama.served import ServedModel, processor, spoken
from narthex.knobs import KnobValues
from narthex.units import format_duration, format_size


def former_of(
    model: ServedModel, resident: Resident, log: Sequence[str], ahead: float | None = 0.0
) -> Former:
    """What is needed to load it again as it is. ``log``: the server's lines, for a process that can't be
    seen. ``ahead``: as for :func:`seconds_left`."""
    left = seconds_left(resident, ahead)
    command = model.command(log)
    return Former(
        name=resident.name,
        forever=left is not None and left > FOREVER_S,
        seconds_left=left,
        context_length=resident.context_length or (command.num_ctx if command else None),
        options=command_options(command) if command else {},
        runner=model.pid(),
    )


def seconds_left(resident: Resident, ahead: float | None = 0.0) -> float | None:
    """Of its keep-alive; None where Ollama does not tell.

    ``ahead``: seconds that the server's clock is ahead of ours; None where that is not known, then only «for
    ever» can be told.
    """
    expires = resident.expires
    if expires is None:
        return None
    left = (expires - datetime.now(UTC)).total_seconds()
    if ahead is None:
        return left if left > FOREVER_S else None
    return left - ahead


def describe(resident: Resident, ahead: float | None = 0.0) -> str:
    """``gemma3:latest · 274 MiB · 100% GPU · context 4096 · for 4 min 51 s more``."""
    left = seconds_left(resident, ahead)
    if left is None:
        until = "until it is told"
    elif left > FOREVER_S:
        until = "for ever"
    else:
        until = f"for {format_duration(left)} more" if left > 0 else "while it answers"
    parts = [spoken(resident.name), format_size(resident.size), processor(resident) or "placement unknown"]
    if resident.context_length:
        parts.append(f"context {resident.context_length}")
    return " · ".join([*parts, until])


def keep_alive(former: Former, server: Server) -> int | float | None:
    """What to send so that it stays as long as it would have; None: the server's default does it."""
    default = default_keep_alive(server.env.get("OLLAMA_KEEP_ALIVE", ""))
    if former.forever:
        return None if default is None else -1
    left = former.seconds_left
    if left is None or (default is not None and left <= default + 1):
        return None
    return max(1, round(left))


def explicit_keep_alive(former: Former, server: Server) -> int | float:
    """As :func:`keep_alive`, the server's default in its number: a loaded model keeps what it was last told,
    and only a number changes that."""
    keep = keep_alive(former, server)
    if keep is not None:
        return keep
    default = default_keep_alive(server.env.get("OLLAMA_KEEP_ALIVE", ""))
    return -1 if default is None else default


def same_runner(former: Former, version: str) -> dict[str, Any]:
    """The options of a request that is served by the runner that is there, so that nothing is loaded anew.

    Only the command line of a llama-server tells what was asked for; older runners show what Ollama chose,
    too. A num_gpu of -1 fits every runner, where a model's own PARAMETER may not.
    """
    options: dict[str, Any] = {"num_ctx": former.context_length} if former.context_length else {}
    seen = former.options
    if seen:
        options["num_gpu"] = -1
    if seen and has(version, "fit"):
        options |= {"num_gpu": seen.get("num_gpu", -1), "num_thread": seen.get("num_thread", 0)}
        options |= {"num_batch": seen["num_batch"]} if "num_batch" in seen else {}
    return options


def expected_to_miss(former: Former, own: KnobValues, server: Server) -> dict[str, Any]:
    """Those of :func:`missing_options` that are sure before anything is loaded.

    ``own``: what a load without options is expected to be.

    The batch is not among them: with little memory Ollama takes less by itself, and a number of ours would
    make it load anew for clients that send none. Before llama-server, a command line also shows what Ollama
    chose.
    """
    known = (("num_ctx", own.num_ctx), ("num_gpu", own.gpu_layers), ("num_thread", own.threads))
    now = {name: value for name, value in known if value is not None}
    sure = ("num_ctx", "num_gpu", "num_thread") if has(server.version, "fit") else ("num_ctx",)
    missing = missing_options(former, own.num_ctx, now, server)
    return {name: value for name, value in missing.items() if name in sure}


def missing_options(
    former: Former, context_length: int | None, now: dict[str, Any], server: Server
) -> dict[str, Any]:
    """The options that a load without any lacks to be what it was; empty where it is the same.

    ``now``: what that load came out as. What is unknown on either side is left to Ollama.
    """
    wanted: dict[str, Any] = {}
    before = former.options
    if former.context_length and context_length and former.context_length != context_length:
        wanted["num_ctx"] = former.context_length
    if now and before:
        if before.get("num_gpu") != now.get("num_gpu"):
            wanted["num_gpu"] = before.get("num_gpu", -1)
        for name in ("num_thread", "use_mmap"):
            if name in before and before[name] != now.get(name):
                wanted[name] = before[name]
        usual = now.get("num_batch")
        if "num_ctx" in wanted:  # another context takes another batch by itself
            slots = server.env.get("OLLAMA_NUM_PARALLEL", "")
            parallel = int(slots) if slots.isdecimal() and int(slots) else default_parallel(server.version)
            usual = automatic_batch(server.version, wanted["num_ctx"] * parallel)
        if "num_batch" in before and before["num_batch"] != usual:
            wanted["num_batch"] = before["num_batch"]
    return wanted
