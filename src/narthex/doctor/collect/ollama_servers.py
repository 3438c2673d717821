"""Every Ollama that can be found from here, asked quickly: where, whether it answers, and what it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from narthex.doctor.collect.asking import Late, all_within, within
from narthex.doctor.collect.scope import Scope
from narthex.engines.ollama import discovery
from narthex.engines.ollama.address import Address
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.eras import era_of
from narthex.engines.ollama.processes import server_pid
from narthex.engines.ollama.records import ApiError, Server
from narthex.errors import UsageError
from narthex.host.listeners import listening
from narthex.host.processes import name_of, open_files, pids

ANSWER_S = 2.0
_PLACES_S = 2.5
_LOOK_S = 3.0
_KEY = "ollama servers"
TUNNEL = "tunnel"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One address, and what came back. ``server`` None: no Ollama answers there, and ``why`` says it."""

    url: str
    source: str  # who names that address: "OLLAMA_HOST", "usual address", "container", "process", "tunnel"
    seconds: float
    server: Server | None = None
    why: str = ""
    listens: bool = False  # something accepts connections there


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The whole search."""

    asked: tuple[Asked, ...]
    tried: tuple[str, ...]  # what leads nowhere, in words
    gaps: tuple[str, ...]

    @property
    def servers(self) -> tuple[Server, ...]:
        """Those that answer, each once."""
        return tuple(row.server for row in self.asked if row.server is not None)


def find(scope: Scope) -> Found:
    """Searched once a run, whoever asks."""
    return scope.once(_KEY, _find)


def _find() -> Found:
    gaps: list[str] = []
    try:
        places, tried = _places(gaps)
    except UsageError as error:
        places, tried = [(Address(), discovery.USUAL)], []
        gaps.append(f"{error.message} {error.hint}")
    known = {address.url for address, _ in places}
    places += [row for row in _tunnels() if row[0].url not in known]
    rows = all_within(_LOOK_S + ANSWER_S + 0.5, [_asker(address, source) for address, source in places])
    asked: list[Asked] = []
    for row, (address, source) in zip(rows, places, strict=True):
        late = Asked(url=address.url, source=source, seconds=ANSWER_S, why=_slow(ANSWER_S), listens=True)
        seen = row or late
        twin = any(_same(seen, other) for other in asked)
        silent_guess = seen.server is None and source == TUNNEL
        if not twin and not silent_guess:
            asked.append(seen)
    return Found(asked=tuple(asked), tried=tuple(tried), gaps=tuple(gaps))


def _places(gaps: list[str]) -> tuple[list[tuple[Address, str]], list[str]]:
    try:
        return within(_PLACES_S, discovery.places)
    except Late:
        gaps.append(f"Docker did not list its containers within {_PLACES_S:g} s")
        return discovery.places(containers=False)


def _asker(address: Address, source: str) -> Callable[[], Asked]:
    return lambda: _ask(address, source)


def _ask(address: Address, source: str) -> Asked:
    begun = time.monotonic()
    try:
        version = within(ANSWER_S, lambda: Api(address.url, timeout_s=ANSWER_S).version())
    except (Late, ApiError, UsageError) as error:
        why, listens = _why(error)
        return Asked(
            url=address.url, source=source, seconds=time.monotonic() - begun, why=why, listens=listens
        )
    seconds = time.monotonic() - begun
    server = _look(address, source, version)
    return Asked(url=address.url, source=source, seconds=seconds, server=server, listens=True)


def _why(error: Exception) -> tuple[str, bool]:
    """Why there is no answer, in words, and whether something accepts connections there."""
    if isinstance(error, ApiError) and (error.lost or error.status is not None):
        return error.text, not error.lost
    return (_slow(ANSWER_S), True) if isinstance(error, Late | ApiError) else (str(error), False)


def _look(address: Address, source: str, version: str) -> Server:
    """What it is. One that answered, and then takes too long to be looked at, is known by its version."""
    try:
        return within(_LOOK_S, lambda: discovery.look(address, source))
    except (Late, ApiError):
        local = address.here()
        pid = server_pid(address.port, local) if local else None
        return Server(
            url=address.url,
            version=version,
            era=era_of(version).letter,
            source=source,
            place="process" if pid else "elsewhere",
            pid=pid,
            gaps=(f"Where it runs and what it logs was not found out within {_LOOK_S:g} s.",),
        )


def _tunnels() -> list[tuple[Address, str]]:
    """Ports of this machine that an ssh of this user forwards."""
    mine = [pid for pid in pids() if name_of(pid) == "ssh"]
    if not mine:
        return []
    held = set().union(*(open_files(pid) for pid in mine))
    ports = sorted({row.port for row in listening() if row.link in held})
    return [(Address(port=port), TUNNEL) for port in ports]


def _same(one: Asked, other: Asked) -> bool:
    if one.server is None or other.server is None:
        return False
    return discovery.is_same(one.server, other.server)


def _slow(seconds: float) -> str:
    return f"the connection is accepted, and no answer comes within {seconds:g} s"
