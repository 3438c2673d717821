"""Ollama: where one answers, what it is, what it holds loaded. Nothing is loaded, generated or unloaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from narthex.doctor.collect import ollama_servers
from narthex.doctor.collect.asking import all_within
from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.ollama_servers import Asked, Found
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.redact import hide_secrets, safe_environment
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.eras import has
from narthex.engines.ollama.processes import runner_pids
from narthex.engines.ollama.records import ApiError, Resident, Server, Tag
from narthex.host.processes import started_s, work_done
from narthex.units import format_count, format_duration, format_size

NAME = "Ollama"
TIME_S = 10.0
_LIST_S = 2.0
_MOVES_S = 0.3  # between two looks at what a runner has done
_FOR_EVER_S = 100 * 365 * 86_400  # «expires» in 290 years: it stays until it is unloaded

Lists = tuple[tuple[Tag, ...] | None, tuple[Resident, ...] | None]
"""The stored and the loaded models; None where a list did not come."""


def collect(scope: Scope) -> Collected:
    """Every Ollama that can be found, and what was tried where none answers."""
    if not scope.is_this_machine:
        return Collected()
    found = ollama_servers.find(scope)
    lists = all_within(_LIST_S + 0.5, [_lister(server) for server in found.servers])
    readings = [*_answers(found)]
    facts: list[Fact] = []
    skipped = [Skipped(what=NAME, why=f"can't tell, because {why}") for why in found.gaps]
    for server, listed in zip(found.servers, lists, strict=True):
        models, residents = listed or (None, None)
        readings += [*_server(server), *_models(server, models), *_residents(server, residents)]
        readings += _loading(server, residents)
        facts += _facts(server, residents)
        skipped += [Skipped(what=f"Ollama at {server.url}", why=why) for why in server.gaps]
    return Collected(readings=tuple(readings), facts=tuple(facts), skipped=tuple(skipped))


def _answers(found: Found) -> Iterator[Reading]:
    """Who answers. An address that nobody named counts only where no other one answers."""
    nowhere = not found.servers
    for row in found.asked:
        if row.server is not None:
            words = f"{row.url} answers as Ollama {row.server.version} within {row.seconds:.2f} s"
            yield Reading(name="ollama.answers", about=row.url, value=True, text=words)
            yield Reading(
                name="ollama.seconds",
                about=row.url,
                value=row.seconds,
                text=f"{row.url}/api/version took {row.seconds:.3f} s",
            )
        elif nowhere or row.source != "usual address":
            yield Reading(name="ollama.answers", about=row.url, value=False, text=_silence(row, found))


def _silence(row: Asked, found: Found) -> str:
    origin = "" if row.source == "usual address" else f" ({row.source})"
    others = f"; {'; '.join(found.tried)}" if found.tried and not found.servers else ""
    return hide_secrets(f"no Ollama at {row.url}{origin}: {row.why}{others}").replace("\n", " ")


def _lister(server: Server) -> Callable[[], Lists]:
    return lambda: _lists(server)


def _lists(server: Server) -> Lists:
    api = Api(server.url, timeout_s=_LIST_S)
    tags: tuple[Tag, ...] | None = None
    try:
        tags = api.tags()
        return tags, api.ps() if has(server.version, "ps") else ()
    except ApiError:
        return tags, None


def _server(server: Server) -> Iterator[Reading]:
    url = server.url
    where = {
        "process": f"process {server.pid}",
        "elsewhere": "elsewhere: its process can't be seen from here",
    }
    place = where.get(server.place) or f"container «{server.container.name if server.container else '?'}»"
    unit = f", unit {server.unit}" if server.unit else ""
    yield Reading(name="ollama.version", about=url, value=server.version, text=f"{url} is {server.version}")
    yield Reading(name="ollama.place", about=url, value=server.place, text=f"{url} is {place}{unit}")
    if server.env_source:
        env = safe_environment(server.env)
        words = " ".join(f"{name}={value}" for name, value in env.items()) or "nothing that matters is set"
        text = f"settings of {url}, from its {server.env_source}: {words}"
        yield Reading(name="ollama.env", about=url, value=env, text=text)
    else:
        yield gap("ollama.env", "its settings can't be read from here", url)


def _models(server: Server, tags: tuple[Tag, ...] | None) -> Iterator[Reading]:
    if tags is None:
        yield gap("ollama.models", f"{server.url}/api/tags gave no list within {_LIST_S:g} s", server.url)
        return
    rows = [{"name": tag.name, "size_bytes": tag.size, "digest": tag.digest} for tag in tags]
    names = ", ".join(tag.name for tag in tags[:12]) + (", …" if len(tags) > 12 else "")
    text = f"{server.url} has {format_count(len(tags), 'model')}{': ' if names else ''}{names}"
    yield Reading(name="ollama.models", about=server.url, value=rows, text=text)


def _residents(server: Server, residents: tuple[Resident, ...] | None) -> Iterator[Reading]:
    if residents is None:
        yield gap("ollama.resident", f"{server.url}/api/ps gave no list within {_LIST_S:g} s")
        return
    for one in residents:
        left = _left(one)
        value = {
            "size_bytes": one.size,
            "size_vram_bytes": one.size_vram,
            "num_ctx": one.context_length,
            "expires_at": one.expires_at,
            "seconds_left": left,
            "url": server.url,
        }
        yield Reading(name="ollama.resident", about=one.name, value=value, text=_loaded(one, left))


def _left(resident: Resident) -> float | None:
    expires = resident.expires
    return expires.timestamp() - time.time() if expires is not None else None


def _loaded(one: Resident, left: float | None) -> str:
    parts = [f"{one.name} is loaded: {format_size(one.size)}"]
    if one.size_vram is not None:
        parts.append(f"of it {format_size(one.size_vram)} on the GPU")
    if one.context_length is not None:
        parts.append(f"context {one.context_length}")
    if left is not None:
        stays = (
            "stays until it is unloaded" if left > _FOR_EVER_S else f"stays {format_duration(max(0.0, left))}"
        )
        parts.append(stays)
    return ", ".join(parts)


def _loading(server: Server, residents: tuple[Resident, ...] | None) -> Iterator[Reading]:
    """Runners whose models the server does not list: one that is loading is not in its list, and one that
    hangs while it loads never comes there."""
    if server.pid is None or residents is None:
        return
    ages = {pid: time.time() - begun for pid in runner_pids(server.pid) if (begun := started_s(pid))}
    young_first = sorted(ages, key=lambda pid: ages[pid])[: max(0, len(ages) - len(residents))]
    before = {pid: work_done(pid) for pid in young_first}
    if before:
        time.sleep(_MOVES_S)
    for pid in young_first:
        moves = work_done(pid) != before[pid]
        text = (
            f"runner {pid} of {server.url} was started {format_duration(ages[pid])} ago, its model is not in "
            f"/api/ps: it is still loading, and {'works' if moves else 'does nothing just now'}"
        )
        value = {"pid": pid, "seconds": ages[pid], "moves": moves, "url": server.url}
        yield Reading(name="ollama.loading", about=str(pid), value=value, text=text)


def _facts(server: Server, residents: tuple[Resident, ...] | None) -> Iterator[Fact]:
    yield Fact(text=f"Ollama {server.version} answers at {server.url}.")
    for one in residents or ():
        if one.size_vram and one.size_vram >= one.size:
            yield Fact(text=f"{one.name} is wholly on the GPU ({format_size(one.size_vram)}).")
