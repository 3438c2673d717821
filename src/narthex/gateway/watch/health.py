"""``/healthz`` and ``/readyz``: that it lives, and what it serves. No model is asked, nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from narthex import __version__
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Snapshot
from narthex.gateway.trouble import Trouble


class BackendState(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. ``answers`` None: it was not asked yet, or is only started for a load."""

    name: str  # "ollama", "llama-server"
    url: str = ""
    version: str = ""
    answers: bool | None = None
    problem: str = ""


class RoleState(msgspec.Struct, frozen=True, kw_only=True):
    """What a role takes now; ``model`` None: nothing that it may use is there."""

    model: str | None
    profile: str | None = None
    backend: str | None = None
    ctx: int | None = None  # tokens of one slot
    fallbacks: tuple[str, ...] = ()


class ResidentState(msgspec.Struct, frozen=True, kw_only=True):
    """Something on the card."""

    model: str
    state: str
    vram_bytes: int | None
    running: int


class RoomState(msgspec.Struct, frozen=True, kw_only=True):
    """The card, in bytes; None: not known."""

    total_bytes: int | None
    reserve_bytes: int
    others_bytes: int
    held_bytes: int
    waiting: int


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``/readyz``."""

    ready: bool
    narthex: str
    listen: str
    backends: tuple[BackendState, ...]
    roles: dict[str, RoleState]
    models: int  # that can be asked
    residents: tuple[ResidentState, ...]
    room: RoomState
    problems: tuple[str, ...]

    @property
    def status(self) -> int:
        """200, or 503 where nothing could be answered now."""
        return 200 if self.ready else 503

    def body(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


def alive() -> bytes:
    """The body of ``/healthz``: whoever gets it knows that the event loop turns."""
    return msgspec.json.encode({"status": "ok", "narthex": __version__})


def readiness(
    *,
    listen: str,
    backends: Sequence[BackendState],
    roles: Mapping[str, Sequence[Offer]],
    offers: Sequence[Offer],
    snapshot: Snapshot,
    problems: Sequence[Trouble | str] = (),
) -> Readiness:
    """What is served now. ``roles``: to their choices that are there, the first first. Ready: at least one
    model can be asked and its backend is not known to be gone."""
    names = {offer.key: offer.name for offer in offers}
    gone = {row.name for row in backends if row.answers is False}
    usable = [
        offer for offer in offers if offer.backend in {"ollama", "llama-server"} and offer.backend not in gone
    ]
    told = [problem.text if isinstance(problem, Trouble) else problem for problem in problems]
    told += [
        f"{row.name} at {row.url} does not answer. {row.problem}".strip()
        for row in backends
        if row.name in gone
    ]
    told += [
        f"Nothing that the role «{role}» may use is there." for role, found in roles.items() if not found
    ]
    if not offers:
        told.append("There is no model to ask for.")
    return Readiness(
        ready=bool(usable),
        narthex=__version__,
        listen=listen,
        backends=tuple(backends),
        roles={role: _role(choices) for role, choices in roles.items()},
        models=len(usable),
        residents=tuple(
            ResidentState(
                model=names.get(row.key, row.key), state=row.state, vram_bytes=row.held, running=row.running
            )
            for row in snapshot.holdings
        ),
        room=RoomState(
            total_bytes=snapshot.room.total,
            reserve_bytes=snapshot.room.reserve,
            others_bytes=snapshot.room.others,
            held_bytes=sum(row.held or 0 for row in snapshot.holdings),
            waiting=len(snapshot.waiting),
        ),
        problems=tuple(dict.fromkeys(told)),
    )


def _role(choices: Sequence[Offer]) -> RoleState:
    if not choices:
        return RoleState(model=None)
    first = choices[0]
    return RoleState(
        model=first.name,
        profile=first.profile,
        backend=first.backend,
        ctx=first.num_ctx,
        fallbacks=tuple(offer.name for offer in choices[1:]),
    )
