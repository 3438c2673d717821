"""What a load on a server is where nobody asks for anything: the context and the batch it takes by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from narthex.engines._base import Engine
from narthex.engines.ollama.eras import automatic_batch, default_ctx
from narthex.engines.ollama.log import default_ctx_line
from narthex.engines.ollama.logs import LogSource
from narthex.engines.ollama.options import knobs_from
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.variables import CONTEXT_LENGTH, context_length
from narthex.knobs import KnobValues


class OwnLoad(NamedTuple):
    """The setting of a load without any options, and where its context comes from, in words."""

    knobs: KnobValues
    ctx_source: str


def own_load(
    server: Server,
    engine: Engine,
    parameters: Mapping[str, Any] | None,
    *,
    context_train: int = 0,
    log: LogSource | None = None,
) -> OwnLoad:
    """What Ollama does by itself with a model: the model's own PARAMETERs before the server's defaults.

    The context is cut to what the model was trained for, as Ollama does. Raises UsageError for parameters
    that Ollama would refuse.
    """
    ctx, source = server_ctx(server, engine, log)
    base = KnobValues(num_ctx=ctx, **engine.limits.fixed)
    knobs = knobs_from(parameters or {}, base)
    if parameters and "num_ctx" in parameters:
        source = "the model's own PARAMETER"
    if context_train and knobs.num_ctx > context_train:
        knobs, source = knobs.with_(num_ctx=context_train), "what the model was trained for"
    if not parameters or "num_batch" not in parameters:
        batch = automatic_batch(server.version, knobs.num_ctx * knobs.parallel)
        knobs = knobs.with_(batch=batch, ubatch=batch)
    return OwnLoad(knobs, source)


def server_ctx(server: Server, engine: Engine, log: LogSource | None = None) -> tuple[int, str]:
    """num_ctx where neither a request nor the model says one, and where it comes from.

    Without the server's settings and log it is worked out from the version and the video memory.
    """
    if (asked := context_length(server.env)) is not None:
        return asked, f"{CONTEXT_LENGTH} of the server"
    told = default_ctx_line(log.start()) if log is not None else None
    if told:
        return told, "what the server chose for its video memory"
    vram = sum(device.total_bytes for device in engine.devices) or None
    return default_ctx(server.version, vram), f"the default of Ollama {server.version}"
