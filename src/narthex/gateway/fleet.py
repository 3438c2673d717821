"""``Fleet``: what there is to be asked, with the hands that load it; it keeps the conductor's list true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from narthex.engines.ollama.logs import open_log
from narthex.errors import NarthexError
from narthex.gateway.conductor import Conductor
from narthex.gateway.hands._base import Hand
from narthex.gateway.hands.llama import LlamaHand
from narthex.gateway.hands.ollama import OllamaHand
from narthex.gateway.hands.ollama_residents import FOREIGN
from narthex.gateway.offer import Offer
from narthex.gateway.routing.catalogue import Catalogue
from narthex.gateway.schedule.records import Tenant
from narthex.gateway.trouble import Trouble
from narthex.policy.records import Policy

REFRESH_S = 5.0  # between two looks at what there is to be asked
QUIET_S = 60.0  # the same while nobody asks: an Ollama at rest, and its disk, stay so
OLD_S = 10.0  # a request that comes then waits for a look
NEW_S = 1.0  # one for a name that is not known looks for itself, unless somebody just did
MOMENT_S = 0.5  # for so long; an Ollama that hangs holds nobody up


class Fleet:
    """One gateway's offers."""

    def __init__(self, policy: Policy, catalogue: Catalogue, llama: LlamaHand) -> None:
        self.catalogue, self.llama = catalogue, llama
        self.ollama: OllamaHand | None = None
        self.conductor: Conductor | None = None
        self.joined: Callable[[], None] = _nobody  # hears of an Ollama that was found
        self.stumbled: Callable[[Exception], None] = _unheard  # hears of a look that failed by a fault
        self._policy = policy
        self._synced: tuple[int, object] = (-1, None)
        self._url = ""
        self._stays: dict[str, float] = {}
        self._stays_of = -1
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._asked = False  # since the last look
        self._looked_at = -QUIET_S
        self._patient = True  # until a look hangs: then only the first who asks has waited for it
        self._look: asyncio.Task[None] | None = None

    # the catalogue's face, for the listing

    @property
    def problem(self) -> Trouble | None:
        """Why the list is not today's."""
        return self.catalogue.problem

    def offers(self) -> tuple[Offer, ...]:
        """Everything that may be asked."""
        return self.catalogue.offers()

    def names(self) -> tuple[str, ...]:
        """What can be asked for, as it is shown."""
        return self.catalogue.names()

    def fault(self, name: str) -> NarthexError | None:
        """Why a model file that is named can't be offered."""
        return self.catalogue.fault(name)

    @property
    def generation(self) -> int:
        """Grows with every change of the list."""
        return self.catalogue.generation

    def named(self, name: str) -> Offer | None:
        """One by its name."""
        return self.catalogue.named(name)

    def siblings(self, offer: Offer) -> tuple[Offer, ...]:
        """The other settings of its model."""
        return self.catalogue.siblings(offer)

    def tags(self) -> tuple[msgspec.Raw, ...]:
        """Ollama's own entries."""
        return self.catalogue.tags()

    async def refresh(self) -> None:
        """Look again at what there is, and tell the conductor. Never raises: after a fault what was known
        stays, and the next look tries again."""
        try:
            await self.catalogue.refresh()
            async with self._lock:
                await self._sync()
            self._let_go_old()
        except Exception as error:
            self.stumbled(error)
        self._looked_at, self._asked = asyncio.get_running_loop().time(), False
        self._patient = True

    async def catch_up(self, older_than_s: float = OLD_S) -> None:
        """A request came. Look again where the last look is older than that; come back after a moment at
        most, also where the look takes longer."""
        self._asked = True
        if asyncio.get_running_loop().time() - self._looked_at < older_than_s:
            return
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().create_task(self.refresh())
        if self._patient:
            done, _ = await asyncio.wait((self._look,), timeout=MOMENT_S)
            self._patient = bool(done)

    # its own

    async def start(self, conductor: Conductor) -> None:
        """The first look, and one now and then."""
        self.conductor = conductor
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """No more looks; the conductor ends the hands."""
        for task in (self._task, self._look):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))

    def change(self, policy: Policy) -> None:
        """Another policy."""
        self._policy = policy
        self.catalogue.change(policy)
        self._stays.clear()
        self._synced = (-1, None)

    def pids(self) -> Mapping[str, frozenset[int]]:
        """The processes that compute for each key, as far as they are known."""
        found = dict(self.llama.pids())
        if self.ollama is not None:
            found |= self.ollama.pids()
        return found

    def roots(self) -> tuple[int, ...]:
        """Processes whose children compute for us, as an Ollama on this machine."""
        held = self.catalogue.held
        return (held.server.pid,) if held is not None and held.server.pid is not None else ()

    def keep_alive(self, offer: Offer) -> float:
        """How long an idle offer stays: the longest of its roles', else the gateway's; negative: for ever."""
        if self._stays_of != self.catalogue.generation:
            self._stays.clear()
            self._stays_of = self.catalogue.generation
        if offer.key not in self._stays:
            self._stays[offer.key] = self._keep_alive(offer)
        return self._stays[offer.key]

    def _keep_alive(self, offer: Offer) -> float:
        told = [
            role.keep_alive
            for role in self._policy.roles.values()
            if role.keep_alive is not None and role.model and self.named(role.model) == offer
        ]
        if any(seconds < 0 for seconds in told):
            return -1.0
        return max(told, default=self._policy.gateway.keep_alive)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            if self._asked or asyncio.get_running_loop().time() - self._looked_at >= QUIET_S:
                await self.refresh()

    async def _sync(self) -> None:
        held = self.catalogue.held
        server = held.server if held is not None else None
        if self._synced == (self.catalogue.generation, server) or self.conductor is None:
            return
        if server is not None and (self.ollama is None or self._url != server.url):
            log = await asyncio.to_thread(open_log, server)
            stall_s = self._policy.gateway.stall
            old, self._url = self.ollama, server.url
            self.ollama = OllamaHand(
                server.url, server=server, stall_s=stall_s, log=log, keep_alive=self.keep_alive
            )
            if old is not None:
                await old.close()
            self.joined()
        offers = self.catalogue.offers()
        if self.ollama is not None:
            self.ollama.know(offers)
        for offer in offers:
            hand: Hand | None = self.ollama if offer.backend == "ollama" else self.llama
            if hand is not None:
                self.conductor.add(tenant_of(offer, self.keep_alive(offer)), hand, offer)
        self._synced = (self.catalogue.generation, server)

    def _let_go_old(self) -> None:
        """What is loaded with a setting that nobody can ask for any more, as one that was tuned anew or whose
        file is gone, serves nobody: it goes once it is idle, however long it was to stay."""
        if self.conductor is None:
            return
        offered = {offer.key for offer in self.catalogue.offers()}
        for row in self.conductor.snapshot().holdings:
            if row.state != "ready" or row.key in offered or row.key.startswith(FOREIGN):
                continue
            if self.conductor.offer(row.key).backend in ("ollama", "llama-server"):
                self.conductor.let_go(row.key, "its setting is not offered any more")


def _nobody() -> None:
    """Nobody listens."""


def _unheard(error: Exception) -> None:
    """The same."""


def tenant_of(offer: Offer, keep_alive_s: float) -> Tenant:
    """An offer as the scheduler sees it."""
    return Tenant(
        key=offer.key,
        name=offer.name,
        need=offer.need_bytes,
        slots=offer.slots,
        twin=offer.twin,
        elastic=offer.elastic,
        keep_alive_s=keep_alive_s,
    )
