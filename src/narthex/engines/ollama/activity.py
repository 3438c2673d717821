"""Is a loaded model answering somebody right now? Seen without a request that could load or hold anything."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Sequence

import msgspec

from narthex.engines.ollama.clock import ahead_s
from narthex.engines.ollama.eras import has
from narthex.engines.ollama.formers import seconds_left
from narthex.engines.ollama.records import Resident
from narthex.engines.ollama.served import ServedModel
from narthex.host.processes import cpu_seconds

WATCH_S = 1.0
BUSY_CPUS = 0.25  # an idle runner sleeps; one that computes keeps at least one thread awake, on a GPU too
_SLOTS_S = 1.0


class _Slot(msgspec.Struct):
    is_processing: bool = False


class _Look(msgspec.Struct, frozen=True):
    """One model at one moment."""

    pid: int | None
    cpu_s: float | None
    expires_at: str
    seconds_left: float | None  # until it expires


def busy_models(models: Sequence[ServedModel]) -> list[str]:
    """Names of the models that answer a request now. Takes a second; what can't be seen counts as idle.

    Three signs: the runner's own list of slots, where its port can be reached; its processor time; and
    ``expires_at``, which lies in the past or moves while Ollama waits for an answer. Raises ApiError.
    """
    if not models:
        return []
    ahead = ahead_s(models[0].server)
    before = _look(models, ahead)
    time.sleep(WATCH_S)
    after = _look(models, ahead)
    return [
        model.name
        for model in models
        if model.name in after
        and (
            _slots_busy(model)
            or _worked(before.get(model.name), after[model.name])
            or _due(after[model.name])
        )
    ]


def _look(models: Sequence[ServedModel], ahead: float | None) -> dict[str, _Look]:
    residents = {resident.name: resident for resident in models[0].api.ps()}
    return {
        model.name: _seen(model, residents[model.name], ahead) for model in models if model.name in residents
    }


def _seen(model: ServedModel, resident: Resident, ahead: float | None) -> _Look:
    pid = model.pid()
    cpu_s = cpu_seconds(pid) if pid is not None else None
    return _Look(pid, cpu_s, resident.expires_at, seconds_left(resident, ahead))


def _worked(before: _Look | None, after: _Look) -> bool:
    if before is None:
        return True  # loaded within this second
    if before.expires_at != after.expires_at:
        return True
    if before.cpu_s is None or after.cpu_s is None or before.pid != after.pid:
        return False
    return after.cpu_s - before.cpu_s >= BUSY_CPUS * WATCH_S


def _due(look: _Look) -> bool:
    return look.seconds_left is not None and look.seconds_left < 0


def _slots_busy(model: ServedModel) -> bool:
    """By the runner itself: a llama-server of this network namespace."""
    if model.server.place != "process" or not has(model.server.version, "fit"):
        return False
    command = model.command()
    if command is None or command.port is None:
        return False
    connection = http.client.HTTPConnection("127.0.0.1", command.port, timeout=_SLOTS_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/slots")
        body = connection.getresponse().read()
        with contextlib.suppress(msgspec.MsgspecError):
            return any(slot.is_processing for slot in msgspec.json.decode(body, type=list[_Slot]))
    return False
