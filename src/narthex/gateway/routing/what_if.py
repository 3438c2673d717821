"""What would happen to a request now, without a running gateway: from the card and from what Ollama holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from narthex import settings
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.gateway.ask import Rank
from narthex.gateway.hands._held import has_card
from narthex.gateway.hands.ollama_residents import held as held_bytes
from narthex.gateway.hands.ollama_residents import key_of
from narthex.gateway.hands.room import read_room, room_words
from narthex.gateway.offer import Offer
from narthex.gateway.routing.catalogue import Catalogue
from narthex.gateway.schedule.records import Forecast, Room, Rules, Tenant
from narthex.journal.journal import Journal
from narthex.memory.overhead import DEFAULT_RESERVE
from narthex.policy.names import same_model
from narthex.policy.records import Policy

DISK_BYTES_S = 1e9
"""What a load reads in a second where none was measured: a plain NVMe disk, and the way onto the card."""
_LOADS = 5  # the newest ones count
_LATER = 86_400.0  # whatever stands there has stood long enough


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """The card and what is on it. ``held``: bytes by an offer's key; ``gaps``: what is not known."""

    words: str = ""  # where the room's figures come from
    room: Room
    held: dict[str, int] = {}
    gaps: tuple[str, ...] = ()

    @property
    def most(self) -> int | None:
        """What a model could take if every other one were gone; None: not known."""
        return None if self.room.total is None else self.room.total - self.room.reserve - self.room.others

    @property
    def free(self) -> int | None:
        """What a model can take with all the others in place."""
        return None if self.most is None else self.most - sum(self.held.values())


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen, with names instead of keys. ``load_s`` None: not known, or nothing is loaded."""

    told_by: str  # "gateway", or "here": worked out by this program
    name: str | None  # what would answer; None: it would be refused
    ready: bool
    evicts: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    position: int = 0
    why: str = ""
    trouble: str = ""
    load_s: float | None = None
    load_source: str = ""


def look_around(catalogue: Catalogue, policy: Policy) -> Now:
    """The card, and what Ollama says that it holds. Blocking."""
    server = catalogue.held.server if catalogue.held is not None else None
    elsewhere = server is not None and server.place == "elsewhere"
    residents, gap = _residents(server)
    told = {
        key_of(resident, catalogue.offers(), {}): size
        for resident in residents
        if (size := held_bytes(resident, pid=None, here=not elsewhere)) is not None
    }
    reserve = settings.get("reserve")
    room, held = read_room(
        policy.gateway.vram,
        DEFAULT_RESERVE if reserve is None and has_card() else reserve or 0,
        {},
        told=told,
        elsewhere=elsewhere,
        roots=() if server is None or server.pid is None else (server.pid,),
    )
    return Now(
        words=room_words(policy.gateway.vram, elsewhere=elsewhere),
        room=room,
        held=held,
        gaps=(gap,) if gap else (),
    )


def outlook(
    catalogue: Catalogue, now: Now, choices: Sequence[Offer], policy: Policy, journal: Path
) -> Outlook:
    """What would happen now, and how long the load would take. Blocking."""
    offers = {offer.key: offer for offer in catalogue.offers()}
    found = _forecast(now, tuple(offers.values()), choices, policy)
    taken = offers.get(found.key or "")
    seconds, source = None, ""
    if taken is not None and not found.ready:
        seconds, source = load_seconds(catalogue, taken, journal)
    return Outlook(
        told_by="here",
        name=taken.name if taken is not None else found.key,
        ready=found.ready,
        evicts=tuple(offers[key].name for key in found.evicts if key in offers),
        waits_for=tuple(offers[key].name for key in found.waits_for if key in offers),
        position=found.position,
        why=found.why,
        trouble=found.trouble,
        load_s=seconds,
        load_source=source,
    )


def _forecast(now: Now, offers: Sequence[Offer], choices: Sequence[Offer], policy: Policy) -> Forecast:
    """What the gateway's own scheduler would do, with nobody else asking."""
    from narthex.gateway.schedule.scheduler import Scheduler

    rules = Rules(prefer_resident=policy.gateway.prefer_resident, residency_s=policy.gateway.residency)
    scheduler = Scheduler(rules, now.room)
    for offer in offers:
        scheduler.add(
            Tenant(
                key=offer.key,
                name=offer.name,
                need=offer.need_bytes,
                slots=offer.slots,
                twin=offer.twin,
                elastic=offer.elastic,
                keep_alive_s=-1.0,
            )
        )
    for key, count in now.held.items():
        scheduler.appeared(key, count, 0.0)
    return scheduler.forecast([offer.key for offer in choices], Rank.INTERACTIVE, _LATER)


def load_seconds(catalogue: Catalogue, offer: Offer, journal: Path) -> tuple[float | None, str]:
    """How long its load takes, and where that comes from: loads of the gateway, else a trial of the model,
    else its size."""
    measured, words = _measured(offer, journal)
    if measured is not None:
        return measured, words
    size = _file_bytes(catalogue, offer)
    if not size:
        return None, "not known"
    return size / DISK_BYTES_S, "an estimate from its size, at 1 GB a second"


def _measured(offer: Offer, path: Path) -> tuple[float | None, str]:
    if not path.exists():
        return None, ""
    with Journal.open(path) as journal:
        rows = journal.gateway_events(kind="loaded", model=offer.name, limit=_LOADS)
        times = [row for each in rows if isinstance(row := _body(each.body).get("seconds"), int | float)]
        if times:
            return median(times), f"measured by the gateway, {len(times)} of its loads"
        if offer.profile is None:
            return None, ""
        from narthex.profiles.store import load_profile

        identity = load_profile(journal, offer.profile).model.identity
        trial = journal.last_trial(identity, offer.backend)
    seconds = trial.observation.load_s if trial is not None else None
    return seconds, "measured in the model's newest trial"


def _body(text: bytes) -> Mapping[str, Any]:
    found = msgspec.json.decode(text)
    return found if isinstance(found, dict) else {}


def _file_bytes(catalogue: Catalogue, offer: Offer) -> int | None:
    if offer.backend != "ollama":
        return os.path.getsize(offer.model) if os.path.isfile(offer.model) else None
    tags = catalogue.held.tags if catalogue.held is not None else ()
    return next((tag.size for tag in tags if same_model(tag.name, offer.model)), None)


def _residents(server: Server | None) -> tuple[tuple[Resident, ...], str]:
    if server is None:
        return (), ""
    try:
        return Api(server.url).ps(), ""
    except ApiError as error:
        return (), f"What Ollama holds now is not known: {error.text}."
