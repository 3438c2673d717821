"""What the containers of the stack wrote since their last start."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from narthex.doctor.collect.collected import Collected, together
from narthex.doctor.collect.docker_view import WAIT_S, SeenContainer, docker_view
from narthex.doctor.collect.scope import Scope
from narthex.doctor.finding import Skipped
from narthex.doctor.reading.text import Text
from narthex.engines.ollama import docker
from narthex.engines.ollama.logs import HEAD_S, nanoseconds

NAME = "container logs"
TIME_S = WAIT_S + 5.0

KINDS = {
    "ollama": "ollama_log",
    "openwebui": "openwebui_log",
    "comfyui": "comfyui_log",
    "llama_server": "llama_server_log",
}
_ENOUGH_S = 2.0  # for one log: then what was read is what there is
_MOST_BYTES = 20 << 20
_LINES = 40_000
_BEFORE_S = 3600  # of a container that did not start well the end of its former life is read, too
_NS = 1_000_000_000


def collect(scope: Scope) -> Collected:
    """Both streams with the engine's time before each line, as ``docker logs --timestamps`` shows them."""
    view = docker_view(scope)
    return together(_log(scope, container) for container in view.containers if container.role in KINDS)


def _log(scope: Scope, container: SeenContainer) -> Collected:
    name = f"docker logs {container.name}"
    first = _from(scope, container)
    try:
        data = _read(container, first)
    except docker.NoDocker as error:
        why = f"can't tell, because the log of container {container.name} can't be read: {error}"
        return Collected(skipped=(Skipped(what=name, why=why),))
    return Collected(texts=(Text(kind=KINDS[container.role], name=name, data=data),) if data else ())


def _from(scope: Scope, container: SeenContainer) -> int:
    """Seconds since 1970, a second early: the engine notes the start after the first line was written."""
    if scope.since is not None:
        return int(scope.since)
    started = nanoseconds(str(container.state.get("StartedAt", ""))) // _NS
    stumbled = not container.is_running or bool(container.facts.get("RestartCount"))
    return max(0, started - (_BEFORE_S if stumbled else 1))


def _read(container: SeenContainer, first: int) -> bytes:
    """All of it, or of a long log its first minute and its end."""
    with docker.connect() as api:
        stream = api.logs(container.id, timestamps=True, stream=True, follow=False, since=first, tail=_LINES)
        tail, whole = _end(stream)
        if whole and tail.count(b"\n") < _LINES:
            return tail
        head = bytes(api.logs(container.id, timestamps=True, since=first, until=first + HEAD_S, tail=_LINES))
    start = nanoseconds(tail.partition(b" ")[0].decode(errors="replace")) // _NS
    return head + tail if start > first + HEAD_S else tail


def _end(stream: Iterable[bytes]) -> tuple[bytes, bool]:
    """The last lines that came in time, and whether nothing was dropped."""
    until = time.monotonic() + _ENOUGH_S
    pieces: deque[bytes] = deque()
    size, whole = 0, True
    for piece in stream:
        pieces.append(piece)
        size += len(piece)
        while size > _MOST_BYTES:
            size -= len(pieces.popleft())
            whole = False
        if time.monotonic() > until:
            whole = False
            break
    found = b"".join(pieces)
    return (found if whole else found.partition(b"\n")[2]), whole
