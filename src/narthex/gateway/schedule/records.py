"""What goes into the scheduler and what comes out of it. Times are seconds of one clock; sizes are bytes."""

from __future__ import annotations

import msgspec

from narthex.gateway.ask import Rank
from narthex.gateway.trouble import Trouble
from narthex.policy.records import GatewayPolicy


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's figures; see ``GatewayPolicy``."""

    starvation_s: float = 60.0
    residency_s: float = 5.0
    queue: int = 512
    remember_s: float = 60.0
    restore: bool = True
    prefer_resident: bool = False

    @classmethod
    def of(cls, policy: GatewayPolicy) -> Rules:
        """What the scheduler needs of the policy."""
        return cls(
            starvation_s=policy.starvation,
            residency_s=policy.residency,
            queue=policy.queue,
            remember_s=policy.remember,
            restore=policy.restore,
            prefer_resident=policy.prefer_resident,
        )


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can hold the card: an offer, ComfyUI's job, or a study.

    ``need`` None: not known. ``elastic``: takes what is there where it needs more than all of it.
    """

    key: str
    need: int | None = None
    slots: int | None = None
    twin: str = ""  # of several with one twin one is there at a time; "": no twin
    elastic: bool = False
    keep_alive_s: float = 1800.0  # idle so long, it is unloaded; negative: never
    pinned: bool = False  # never evicted for another; the user allowed it
    exclusive: bool = False  # nothing else may be there: a study's lease
    comes_back: bool = True  # after an image or a study that it had to go for
    name: str = ""  # as people know it; "": its key

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.name or self.key


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The card. ``total`` None: not known, then everything is admitted and the engine decides."""

    total: int | None = None
    reserve: int = 0  # stays free
    others: int = 0  # held by programs that the scheduler does not manage


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A request that wants one of several tenants, the first that can be had, in this order."""

    id: int
    choices: tuple[str, ...]
    rank: Rank = Rank.INTERACTIVE
    client: str = ""
    until: float | None = None  # after this time it is refused
    not_before: float = 0.0  # a background call waits for people's own


class Grant(msgspec.Struct, frozen=True):
    """This ticket may go to this tenant now. ``instead``: why it is not its first choice; "" where it is."""

    ticket: int
    key: str
    instead: str = ""


class Refuse(msgspec.Struct, frozen=True):
    """This ticket gets nothing."""

    ticket: int
    trouble: Trouble


class Load(msgspec.Struct, frozen=True):
    """Begin to load; answered by ``loaded`` or ``failed``. ``clients``: who waits for it, the first first."""

    key: str
    clients: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()  # what had to go for it


class Unload(msgspec.Struct, frozen=True):
    """Let it go; answered by ``unloaded`` once the memory is free. ``why`` in words."""

    key: str
    why: str
    client: str = ""  # whose request caused it


Effect = Grant | Refuse | Load | Unload


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen to a request now; nothing is changed."""

    key: str | None  # None: it would be refused
    ready: bool  # loaded already
    evicts: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()  # busy ones that must end first
    position: int = 0  # in the queue
    why: str = ""
    trouble: str = ""


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant in a snapshot."""

    key: str
    state: str  # "loading", "ready", "unloading"
    held: int | None
    running: int
    since: float  # in this state
    idle_since: float | None  # None while it works
    pinned: bool = False


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One ticket in the queue."""

    ticket: int
    wants: str
    rank: Rank
    client: str
    since: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment, for the page, the metrics and /readyz."""

    room: Room
    holdings: tuple[Holding, ...]
    waiting: tuple[Waiting, ...]
    remembered: tuple[tuple[str, float], ...]  # failed key, until
