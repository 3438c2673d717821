"""The journal of narthex: the last good profile of each model, and what is another now than it was then.

Only what can be seen without loading a model is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from narthex import paths
from narthex.doctor.collect import ollama_servers
from narthex.doctor.collect.asking import Late, within
from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.nvml_child import NvmlSeen
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Skipped
from narthex.engines.ollama import server_wide
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.records import ApiError, Server
from narthex.engines.ollama.shown import shown_blob
from narthex.errors import NarthexError
from narthex.host import limits
from narthex.host.collect import cpu_model, host_key, read_memory
from narthex.journal.journal import Journal
from narthex.profiles.profile import Profile
from narthex.profiles.store import list_profiles
from narthex.units import format_size

NAME = "journal"
TIME_S = 12.0
_MOST = 12  # profiles that are compared
_NVML_S = 3.0
_SHOW_S = 2.0
OLLAMA = "ollama"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of it for a profile; ``known`` False where the driver does not answer in time."""

    known: bool
    driver: str | None = None
    cards: tuple[str, ...] = ()
    key: str = ""


def collect(scope: Scope) -> Collected:
    """Nothing is said where there is no journal yet."""
    if not scope.is_this_machine or not paths.journal_path().exists():
        return Collected()
    try:
        with Journal.open(busy_timeout_s=1.0) as journal:
            profiles = list_profiles(journal)
    except NarthexError as error:
        why = f"can't tell, because {error.message}"
        return Collected(skipped=(Skipped(what="the journal of narthex", why=why),))
    good = last_good(profiles)[:_MOST]
    if not good:
        return Collected()
    machine = _machine(scope)
    servers = ollama_servers.find(scope).servers
    rows = [row for profile in good for row in _rows(profile, machine, servers)]
    return Collected(readings=tuple(rows))


def last_good(profiles: Sequence[Profile]) -> list[Profile]:
    """Of each model on each kind of engine the newest profile that was proven, else the newest that was not
    refuted. ``profiles``: the newest first."""
    found: dict[tuple[str, str], Profile] = {}
    for profile in sorted(profiles, key=lambda one: not one.proven):
        if profile.verified is not False and not profile.demo:
            found.setdefault((profile.model.identity, profile.engine_kind), profile)
    return list(found.values())


def _rows(profile: Profile, machine: Machine, servers: Sequence[Server]) -> Iterator[Reading]:
    about = profile.model.served_as or profile.model.name
    day = f"{datetime.fromtimestamp(profile.created_at, UTC):%Y-%m-%d}"
    value = {
        "name": profile.name,
        "at": profile.created_at,
        "knobs": msgspec.to_builtins(profile.knobs),
        "engine": profile.engine_kind,
        "engine_version": profile.engine_build,
        "driver": profile.driver,
        "proven": profile.proven,
    }
    text = f"{about}: profile {profile.name} of {day}, made with {profile.engine_kind} {profile.engine_build}"
    yield Reading(name="journal.profile", about=about, value=value, text=text)
    if not machine.known:
        yield gap("journal.changed", "the GPU driver could not be asked", about)
        return
    changes = [*_machine_changes(profile, machine), *_engine_changes(profile, servers)]
    told = "; ".join(changes) or "nothing that counts"
    text = f"changed since profile {profile.name} of {day}: {told}"
    yield Reading(name="journal.changed", about=about, value=changes, text=text)


def _machine(scope: Scope) -> Machine:
    """NVML is asked in a program of its own: it may hang on a card that is ill."""
    ran = scope.children.run(scope.nvml, seconds=_NVML_S)
    try:
        seen = msgspec.json.decode(ran.out, type=NvmlSeen)
    except msgspec.DecodeError:
        return Machine(known=False)
    if seen.status == "NO_BINDINGS":
        return Machine(known=False)
    gpus = tuple(card.facts for card in seen.cards if card.facts is not None)
    driver = seen.driver or None
    key = host_key(cpu_model(), limits.physical_cores(), read_memory()[0], gpus, driver)
    return Machine(known=True, driver=driver, cards=tuple(gpu.name for gpu in gpus), key=key)


def _machine_changes(profile: Profile, machine: Machine) -> list[str]:
    found = []
    cards = " + ".join(machine.cards) or None
    if profile.gpu is not None and profile.driver is not None and cards != profile.gpu:
        found.append(f"the card is {cards or 'none'} now; it was {profile.gpu}")
    if machine.driver != profile.driver:
        found.append(f"the GPU driver is {machine.driver or 'none'} now; it was {profile.driver or 'none'}")
    if not found and machine.key != profile.host_key:
        found.append("the machine is another one, or its CPU, memory or cards changed")
    return found


def _engine_changes(profile: Profile, servers: Sequence[Server]) -> list[str]:
    """Of Ollama its version, its settings and the model; of a llama-server the model file: it is not started
    here to ask for its version."""
    if profile.engine_kind != OLLAMA:
        return _file_changes(profile)
    mine = [server for server in servers if profile.server_url in (None, server.url)]
    if not mine:
        return []
    server = mine[0]
    found = []
    if server.version != profile.engine_build:
        found.append(f"Ollama is {server.version} now; it was {profile.engine_build}")
    found += _settings_changes(profile, server)
    return found + _served_changes(profile, server)


def _settings_changes(profile: Profile, server: Server) -> list[str]:
    """Settings of the whole server, as the key of the profile's engine names them."""
    if not server.env_source:
        return []
    variant = server_wide.variant_of(server.env, server.version)
    now = set(variant.split())
    then = {word for word in profile.engine_key.split() if _is_setting(word)}
    if now == then:
        return []
    told, was = (" ".join(sorted(words)) or "all as Ollama has it" for words in (now, then))
    return [f"the server's settings are «{told}» now; they were «{was}»"]


def _is_setting(word: str) -> bool:
    """``kv=q8_0``; a device is written ``CUDA0=NVIDIA …``, in capitals."""
    name, equals, _ = word.partition("=")
    return bool(equals) and name.islower()


def _served_changes(profile: Profile, server: Server) -> list[str]:
    name = profile.model.served_as
    if not name:
        return []
    try:
        show = within(_SHOW_S, lambda: Api(server.url, timeout_s=_SHOW_S).show(name))
    except Late:
        return []
    except ApiError as error:
        return [f"{name} is not in this Ollama any more"] if error.status == 404 else []
    blob = shown_blob(show)
    if blob is None or profile.model.identity == f"ollama:{blob}":
        return []
    return [f"{name} has other weights now than when its profile was made"]


def _file_changes(profile: Profile) -> list[str]:
    path = Path(profile.model.path)
    try:
        now = path.stat().st_size
    except OSError:
        return [f"the model file {path} is gone or can't be read"]
    then = profile.model.file_bytes
    if not then or now == then or "-of-" in path.name:  # of several files the profile counts all
        return []
    return [f"the model file has {format_size(now)} now; it had {format_size(then)}"]
