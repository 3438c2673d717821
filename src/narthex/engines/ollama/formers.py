"""Loaded models as they were found: in words, on paper, and as the options that bring them back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from narthex.engines.ollama.eras import automatic_batch, default_parallel
from narthex.engines.ollama.notes import Former
from narthex.engines.ollama.options import command_options
from narthex.engines.ollama.records import Resident, Server
from narthex.engines.ollama.served import ServedModel, processor, spoken
from narthex.units import format_duration, format_size

FOREVER_S = 20 * 365 * 86_400  # Ollama writes «for ever» as some 290 years ahead
KEEP_ALIVE_S = 300.0  # where OLLAMA_KEEP_ALIVE is not set
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"([\d.]+)(ms|us|µs|ns|h|m|s)")
_SECONDS = re.compile(r"[+-]?\d+")


def former_of(model: ServedModel, resident: Resident, log: Sequence[str]) -> Former:
    """What is needed to load it again as it is. ``log``: the server's lines, for a process that can't be
    seen."""
    left = seconds_left(resident)
    command = model.command(log)
    return Former(
        name=resident.name,
        forever=left is not None and left > FOREVER_S,
        seconds_left=left,
        context_length=resident.context_length or (command.num_ctx if command else None),
        options=command_options(command) if command else {},
    )


def seconds_left(resident: Resident) -> float | None:
    """Of its keep-alive; None where Ollama does not tell."""
    expires = resident.expires
    return (expires - datetime.now(UTC)).total_seconds() if expires is not None else None


def describe(resident: Resident) -> str:
    """``gemma3:latest · 274 MiB · 100% GPU · context 4096 · for 4 min 51 s more``."""
    left = seconds_left(resident)
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


def default_keep_alive(text: str) -> float | None:
    """Seconds of OLLAMA_KEEP_ALIVE: a Go duration or whole seconds; None for ever, 300 where it makes no
    sense, as Ollama itself reads it."""
    word = text.strip().strip("\"'")
    if _SECONDS.fullmatch(word):
        seconds = float(word)
    else:
        bare = word.lstrip("+-")
        parts = _DURATION.findall(bare)
        if not parts or "".join(number + unit for number, unit in parts) != bare:
            return KEEP_ALIVE_S
        try:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        except ValueError:
            return KEEP_ALIVE_S
        seconds = -seconds if word.startswith("-") else seconds
    return None if seconds < 0 or seconds > FOREVER_S else seconds


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
