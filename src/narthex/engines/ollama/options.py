"""Knobs as Ollama's load options, and back: what can be asked for with one load.

Only these options are fixed at load and make Ollama reload when they change. The rest of a setting (KV
type, flash attention, slots, experts on the CPU) belongs to the whole server: see
:class:`narthex.engines._base.Limits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narthex.engines._base import Limits
from narthex.engines.ollama.command import RunnerCommand
from narthex.engines.ollama.eras import automatic_batch
from narthex.errors import UsageError
from narthex.knobs import BY_NAME, KnobValues

NAMES = ("num_ctx", "num_gpu", "num_batch", "num_thread", "use_mmap")
"""The load options that narthex turns, in the order in which they are shown. Every Ollama that lists its
loaded models (0.1.38) knows all of them."""
_TRUE = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def options_for(knobs: KnobValues, version: str, *, parallel: int = 1) -> dict[str, Any]:
    """The options of a load with these knobs; ``parallel``: slots of the server, OLLAMA_NUM_PARALLEL.

    ``gpu_layers=None`` leaves the placement to Ollama: num_gpu is left out, and num_batch too where it is
    what Ollama takes by itself: with little memory it takes less, and may.
    """
    options: dict[str, Any] = {"num_ctx": knobs.num_ctx}
    if knobs.gpu_layers is not None:
        options["num_gpu"] = knobs.gpu_layers
    if knobs.gpu_layers is not None or knobs.batch != automatic_batch(version, knobs.num_ctx * parallel):
        options["num_batch"] = knobs.batch
    if knobs.threads is not None:
        options["num_thread"] = knobs.threads
    if knobs.mmap != "auto":
        options["use_mmap"] = knobs.mmap == "on"
    return options


def against_parameters(
    options: dict[str, Any], parameters: Mapping[str, Any], knobs: KnobValues
) -> dict[str, Any]:
    """The options of a load for a model that has PARAMETERs of its own: what is left out of a request would
    be taken from those, so automatic values are then sent in words that Ollama takes for automatic."""
    automatic = {"num_gpu": -1, "num_batch": knobs.batch, "num_thread": 0}
    return options | {
        name: value for name, value in automatic.items() if name in parameters and name not in options
    }


def parameters_of(text: str) -> dict[str, str]:
    """The PARAMETERs as ``/api/show`` prints them: one a line, the value behind blanks, perhaps quoted."""
    rows = (line.split(None, 1) for line in text.splitlines())
    return {row[0]: row[1].strip().strip('"') for row in rows if len(row) == 2}


def knobs_from(parameters: Mapping[str, Any], start: KnobValues) -> KnobValues:
    """``start`` with what a model's PARAMETERs or a request's options say; other names are passed over.

    Values may be typed or text, as ``/api/show`` prints them (``1.048576e+06`` is a number of Go). Raises
    UsageError for a value that Ollama itself would refuse when it loads the model.
    """
    changes: dict[str, Any] = {}
    if (num_ctx := _whole(parameters, "num_ctx")) is not None:
        changes["num_ctx"] = max(4, num_ctx)  # Ollama takes no less
    if (layers := _whole(parameters, "num_gpu")) is not None:
        changes["gpu_layers"] = layers if layers >= 0 else None
    if (batch := _whole(parameters, "num_batch")) is not None and batch > 0:
        changes["batch"] = changes["ubatch"] = batch
    if (threads := _whole(parameters, "num_thread")) is not None:
        changes["threads"] = threads if threads > 0 else None
    if parameters.get("use_mmap") is not None:
        changes["mmap"] = "on" if _truth(parameters["use_mmap"]) else "off"
    return start.with_(**changes)


def command_options(command: RunnerCommand) -> dict[str, Any]:
    """A runner's command line as the options that lead to it; what it does not tell is left out."""
    told: Sequence[tuple[str, Any]] = (
        ("num_ctx", command.num_ctx),
        ("num_gpu", command.gpu_layers),
        ("num_batch", command.ubatch),
        ("num_thread", command.threads),
        ("use_mmap", command.mmap),
    )
    return {name: value for name, value in told if value is not None}


def describe_options(options: Mapping[str, Any]) -> str:
    """``num_ctx 8192 · num_gpu 19 · num_batch 256``; «no options» for none."""
    words = [f"{name} {_shown(options[name])}" for name in NAMES if name in options]
    words += [f"{name} {_shown(value)}" for name, value in options.items() if name not in NAMES]
    return " · ".join(words) or "no options"


def unloadable(knobs: KnobValues, limits: Limits) -> str | None:
    """Why this server can't load with exactly these knobs, in one sentence; None where it can."""
    if limits.one_batch and knobs.batch != knobs.ubatch:
        return (
            f"Batch {knobs.batch} and micro-batch {knobs.ubatch} differ; "
            "Ollama's num_batch sets both, so they must be equal."
        )
    for name, fixed in limits.fixed.items():
        asked = getattr(knobs, name)
        if asked != fixed and not (name == "flash_attn" and asked == "auto"):
            why = limits.why.get(name, "it is a setting of the whole server")
            flag = BY_NAME[name].flag
            return f"{flag} {asked} can't be asked for with a load: this Ollama runs with {fixed} ({why})."
    return None


def _whole(parameters: Mapping[str, Any], name: str) -> int | None:
    """Ollama cuts fractions off, and so do we."""
    value = parameters.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise _refused(name, value, "a whole number") from None


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = _TRUE.get(str(value).strip().lower())
    if found is None:
        raise _refused("use_mmap", value, "true or false")
    return found


def _refused(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(
        f"The model's PARAMETER {name} is «{value}», which is not {wanted}; Ollama refuses to load it.",
        hint="Create the model again with a plain value; in a Modelfile nothing may follow it on its line.",
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
