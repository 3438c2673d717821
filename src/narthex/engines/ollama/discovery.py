"""Find the Ollama to work with: by flag, by setting, at its usual address, in a container.

What a person named is the one that is used, or an error: narthex never takes another server silently.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex import settings
from narthex.engines._base import LOGITS_FOR_SLOTS, Engine, EngineDevice
from narthex.engines.ollama import docker, logs, processes, server_wide
from narthex.engines.ollama.address import Address, parse_given, parse_host
from narthex.engines.ollama.api import Api, to_error
from narthex.engines.ollama.eras import era_of, has
from narthex.engines.ollama.log import compute_devices
from narthex.engines.ollama.logs import LogSource
from narthex.engines.ollama.records import ApiError, Server
from narthex.engines.ollama.site import Site, find_site, log_of, memory_of, store_of, unit_of
from narthex.errors import EngineNotFound, NarthexError
from narthex.host.facts import HostFacts
from narthex.host.processes import environment

KIND = "ollama"
PROBE_S = 5.0
CARDS_UNKNOWN = "Its cards are not known from here; give --vram."
FLAG = "flag"
USUAL = "usual address"
CONTAINER = "container"
PROCESS = "process"


class Search(msgspec.Struct, kw_only=True):
    """What was asked without success, for the error that says so."""

    tried: list[str] = []
    containers: list[docker.Found] = []


def find_server(explicit: str | None = None) -> Server:
    """The Ollama to use: what ``--ollama`` says, else ``OLLAMA_HOST``, else the policy file's, else the usual
    address, other ``ollama serve`` processes and containers. Where nobody named one, narthex' own gateway is
    taken only if no Ollama is found.

    Raises UsageError for an address that is none, EngineNotFound where none answers, and EngineError where
    something else does.
    """
    named = _named(explicit)
    if named is not None:
        return _ask(*named)
    search = Search()
    strange: NarthexError | None = None
    gateway: Server | None = None
    for address, source in _candidates(search):
        try:
            server = look(address, source)
            if not server.gateway:
                return server
            gateway = gateway or server
        except ApiError as error:
            search.tried.append(f"{address.url}: {error.text}")
            if not error.lost:
                strange = strange or to_error(error, address.url, "tell its version")
    if gateway is not None:
        return gateway
    if strange is not None and not search.containers:
        raise strange
    raise EngineNotFound(
        f"No Ollama answers here. Asked: {'; '.join(search.tried)}.", hint=_way_out(search.containers)
    )


def find_servers() -> list[Server]:
    """Every Ollama that answers, each once: the one that is set, the usual address, processes, containers."""
    named = _named(None)
    found: list[Server] = []
    for address, source in [*([named] if named else ()), *_candidates(Search())]:
        try:
            server = look(address, source)
        except ApiError:
            continue
        if not any(is_same(server, other) for other in found):
            found.append(server)
    return found


def places(*, containers: bool = True) -> tuple[list[tuple[Address, str]], list[str]]:
    """Where an Ollama may answer, each address once and the likeliest first, with who says so; and what leads
    nowhere, in words. Nothing is asked of an Ollama, and Docker only for ``containers``. Raises UsageError
    for a setting that is no address."""
    named, search = _named(None), Search()
    found: dict[str, tuple[Address, str]] = {}
    for address, source in [*([named] if named else ()), *_candidates(search, containers=containers)]:
        found.setdefault(address.url, (address, source))
    return list(found.values()), search.tried


def look(address: Address, source: str) -> Server:
    """The server at that address, as it is now. Raises ApiError where none answers."""
    version, gateway = Api(address.url, timeout_s=PROBE_S).about()
    site = find_site(address)
    log, log_gap = log_of(site)
    server = Server(
        url=address.url,
        version=version,
        era=era_of(version).letter,
        source=source,
        gateway=gateway,
        place=site.place,
        pid=site.pid,
        container=site.found.container if site.found else None,
        unit=unit_of(site),
        store=store_of(site),
        memory_bytes=memory_of(site),
        log=log,
    )
    env, env_source = _environment(server, site)
    gaps = [*site.gaps, log_gap]
    if not env_source:
        gaps.append("Its settings can't be read, so Ollama's defaults are assumed.")
    if server.store is None:
        gaps.append("Its model files can't be read from here; models are described by its API alone.")
    return msgspec.structs.replace(
        server, env=env, env_source=env_source, gaps=tuple(gap for gap in gaps if gap)
    )


def look_again(server: Server) -> Server:
    """The same server after it was started anew: another process, maybe other settings. Raises ApiError."""
    return look(parse_host(server.url), server.source)


def engine_of(server: Server, host: HostFacts, log: LogSource | None) -> Engine:
    """The server as an engine. Its devices are those of its log, else this machine's cards."""
    devices, gap = _devices(server, host, log)
    return Engine(
        kind=KIND,
        path=server.url,
        source=server.source,
        build=server.version,
        variant=server_wide.variant_of(server.env, server.version),
        limits=server_wide.limits_of(server.env, server.version),
        traits=frozenset({LOGITS_FOR_SLOTS} if has(server.version, "logits_for_slots") else ()),
        devices=devices,
        gaps=(*server.gaps, *((gap,) if gap else ())),
    )


def _named(explicit: str | None) -> tuple[Address, str] | None:
    """The address that a person chose, and where it was chosen. Raises UsageError."""
    if explicit is not None:
        return parse_given(explicit), FLAG
    setting = settings.resolve("ollama_host")
    if setting.source == "environment":
        return parse_given(str(setting.value)), setting.setting.env
    if setting.value:
        return parse_given(str(setting.value)), "narthex.toml"
    return None


def _ask(address: Address, source: str) -> Server:
    try:
        return look(address, source)
    except ApiError as error:
        plain = to_error(error, address.url, "tell its version")
        if not error.lost:
            raise plain from error
        here = address.here() is not None
        containers = _containers(Search()) if here else []
        waiting = [item for item in containers if not item.running]
        hint = _way_out(waiting) if waiting else _named_hint(address, source)
        origin = "" if source == FLAG else f" {source} names that address."
        raise EngineNotFound(f"{plain.message}{origin}", hint=hint) from error


def _named_hint(address: Address, source: str) -> str:
    if address.port in (80, 443):
        return f"Without a port, {address.scheme}:// means port {address.port}; Ollama's own is 11434."
    if address.here() is None:
        return "Is that machine on, and does its Ollama listen for others (there: OLLAMA_HOST=0.0.0.0)?"
    if source == FLAG:
        return "Start it with `ollama serve`, or leave --ollama out: then narthex searches."
    return "Start it with `ollama serve`, or name another with --ollama URL."


def _candidates(search: Search, *, containers: bool = True) -> Iterator[tuple[Address, str]]:
    """Places where an Ollama may answer, the likeliest first. Containers are only looked for when needed."""
    usual = Address()
    yield usual, USUAL
    for found in _containers(search) if containers else ():
        if not found.running:
            search.tried.append(f"container «{found.container.name}»: {found.status}")
        elif found.url is None:
            search.tried.append(f"container «{found.container.name}»: no way leads to its port")
        elif (address := parse_host(found.url)) != usual:
            yield address, CONTAINER
    for pid in processes.server_pids():
        address = parse_host(environment(pid).get("OLLAMA_HOST", ""))
        if address != usual and processes.container_id(pid) is None:
            yield address, PROCESS


def _containers(search: Search) -> list[docker.Found]:
    try:
        search.containers = docker.find_containers()
    except docker.NoDocker as error:
        search.tried.append(f"containers: {error}")
    else:
        if not search.containers:
            search.tried.append("containers: none holds an Ollama")
    return search.containers


def _way_out(containers: list[docker.Found]) -> str:
    """What to do, with the command where a container waits to be started."""
    for found in containers:
        name = found.container.name
        if found.status == "paused":
            return f"Its container «{name}» is paused; let it go on with: docker unpause {name}"
        if not found.running:
            return f"Its container «{name}» is stopped; start it with: docker start {name}"
        if not found.published:
            return (
                f"Container «{name}» runs, but its port is not published; "
                "create it with -p 127.0.0.1:11434:11434."
            )
    if containers:
        name = containers[0].container.name
        return f"Container «{name}» runs and does not answer; see: docker logs --tail 20 {name}"
    return "Start it with `ollama serve`, or name a server with --ollama URL."


def _environment(server: Server, site: Site) -> tuple[dict[str, str], str]:
    """(settings of the server, where they were read)."""
    raw = environment(site.pid) if site.pid is not None else {}
    source = "process" if raw else ""
    if not raw and site.found is not None:
        raw, source = site.found.env, "container"
    log = logs.open_log(server)
    lines = log.start() if log is not None else []
    if any(logs.START in line for line in lines):
        source = "log"
    return server_wide.effective_env(lines, raw), source


def _devices(
    server: Server, host: HostFacts, log: LogSource | None
) -> tuple[tuple[EngineDevice, ...], str | None]:
    lines = log.start()[: server_wide.START_LINES] if log is not None else []
    if any('msg="inference compute"' in line for line in lines):
        return compute_devices(lines), None
    if server.place == "elsewhere":
        return (), CARDS_UNKNOWN
    gpus = _asked_for(server)
    cards = server_wide.visible_cards(server, len(host.gpus), [gpu.uuid for gpu in host.gpus], gpus)
    if gpus is not None and not gpus and host.gpus:
        return (), "Its container was created without a GPU (--gpus=all), so it computes on the CPU."
    devices = tuple(
        EngineDevice(
            name=f"CUDA{number}",
            description=host.gpus[card].name,
            total_bytes=host.gpus[card].total_bytes,
            free_bytes=host.gpus[card].free_bytes,
        )
        for number, card in enumerate(cards)
    )
    return devices, None


def _asked_for(server: Server) -> tuple[str, ...] | None:
    """The cards that its container asked for; None where there is no container, or it can't be asked."""
    if server.container is None:
        return None
    try:
        return docker.look(server.container.id).gpus
    except docker.NoDocker:
        return None


def is_same(one: Server, other: Server) -> bool:
    """Whether two addresses lead to one server."""
    if one.pid is not None and one.pid == other.pid:
        return True
    if one.container is not None and other.container is not None:
        return one.container.id == other.container.id
    return one.url == other.url
