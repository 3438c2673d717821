"""``Conductor``: drives the scheduler on the event loop. It keeps the clock, does what comes out, and tells
the scheduler what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from narthex.gateway.ask import Rank
from narthex.gateway.hands._base import Hand, Progress, Seen
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import (
    Effect,
    Forecast,
    Grant,
    Load,
    Refuse,
    Room,
    Rules,
    Snapshot,
    Tenant,
    Ticket,
    Unload,
)
from narthex.gateway.schedule.scheduler import Scheduler
from narthex.gateway.trouble import Trouble

FRESH_S = 1.0  # older than that, what is loaded is looked up again before a load is decided
AT_REST_S = 5.0  # between two looks while nobody asks for what is loaded
IDLE_LOOK_S = 10.0  # between two looks while nothing is loaded and nobody waits
LOOK_LIMIT_S = 3.0  # a look that takes longer tells nothing
BRIEFLY_S = 0.5  # so long a request waits for a look; an engine that hangs must not hold up another's

Observe = Callable[[], Awaitable[tuple[Room, Mapping[str, int]]]]


class Listener(Protocol):
    """Who hears of loads: metrics, the log, the journal."""

    def loading(self, offer: Offer, clients: Sequence[str], evicted: Sequence[str]) -> None: ...

    def loaded(
        self, offer: Offer, seconds: float, held: int | None, clients: Sequence[str], evicted: Sequence[str]
    ) -> None: ...

    def failed(self, offer: Offer, seconds: float, trouble: Trouble, clients: Sequence[str]) -> None: ...

    def evicted(self, offer: Offer, seconds: float, why: str, client: str) -> None: ...

    def vanished(self, offer: Offer) -> None: ...


@dataclass(slots=True)
class Granted:
    """A place at a tenant. Give it back with :meth:`Conductor.release`."""

    ticket: int
    offer_key: str
    waited_s: float
    instead: str = ""  # why it is not the first choice
    loaded_for: bool = False  # it was loaded while this one waited


@dataclass(slots=True)
class _Place:
    """What is known of one key."""

    offer: Offer
    hand: Hand
    tenant: Tenant
    loaded_at: float = -1.0
    gone_at: float = -1.0  # when it was let go, or could not be loaded
    progress: Progress | None = None
    load_s: float | None = None  # its last load took so long


class Conductor:
    """One card's. All methods belong to the event loop's thread."""

    def __init__(self, rules: Rules, room: Room, *, observe: Observe, listener: Listener) -> None:
        self._scheduler = Scheduler(rules, room)
        self._observe, self._listener = observe, listener
        self._places: dict[str, _Place] = {}
        self._waiting: dict[int, asyncio.Future[Grant]] = {}
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = -FRESH_S
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False  # something happened since the look began
        self._closed = False
        self._loop = asyncio.get_running_loop()

    # what can be asked for

    def add(self, tenant: Tenant, hand: Hand, offer: Offer) -> None:
        """Make a tenant known, or change its figures."""
        place = self._places.get(tenant.key)
        if place is None:
            self._places[tenant.key] = _Place(offer, hand, tenant)
        else:
            tenant = msgspec.structs.replace(
                tenant, keep_alive_s=place.tenant.keep_alive_s, pinned=place.tenant.pinned
            )
            place.offer, place.hand, place.tenant = offer, hand, tenant
        self._scheduler.add(tenant)

    def keep(self, key: str, keep_alive_s: float, *, pinned: bool = False) -> None:
        """How long it stays when idle, as the newest request has it; negative: for ever."""
        place = self._places[key]
        if place.tenant.keep_alive_s != keep_alive_s or place.tenant.pinned != pinned:
            place.tenant = msgspec.structs.replace(place.tenant, keep_alive_s=keep_alive_s, pinned=pinned)
            self._scheduler.add(place.tenant)

    def change(self, rules: Rules) -> None:
        """Take another policy; nothing that runs or waits is touched."""
        self._scheduler.change(rules)
        self._arm()

    def tenants(self) -> tuple[Tenant, ...]:
        """All that are known."""
        return tuple(place.tenant for place in self._places.values())

    def offer(self, key: str) -> Offer:
        """The offer of a key."""
        return self._places[key].offer

    def hand(self, key: str) -> Hand:
        """Who loads it."""
        return self._places[key].hand

    def progress(self, key: str) -> Progress | None:
        """How far its load is; None where it is not loading."""
        return self._places[key].progress if key in self._places else None

    def load_seconds(self, key: str) -> float | None:
        """How long its last load took; None where it was never loaded here."""
        return self._places[key].load_s if key in self._places else None

    # requests

    async def acquire(
        self,
        choices: Sequence[str],
        *,
        rank: Rank = Rank.INTERACTIVE,
        client: str = "",
        wait_s: float,
        hold_s: float = 0.0,
    ) -> Granted:
        """A place at the first of these that can be had. Raises Trouble. Cancelling it leaves the queue."""
        if self._closed:
            raise _closing()
        begun = self._loop.time()
        if begun - self._looked_at > FRESH_S and not self._is_ready(choices[0]):
            await self.look_briefly()
        if self._closed:
            raise _closing()
        now = self._loop.time()
        ticket = next(self._ids)
        effects = self._scheduler.submit(
            Ticket(
                id=ticket,
                choices=tuple(choices),
                rank=rank,
                client=client,
                until=begun + wait_s,
                not_before=now + hold_s if hold_s else 0.0,
            ),
            now,
        )
        if len(effects) == 1 and type(effects[0]) is Grant and effects[0].ticket == ticket:
            if self._timer is None:
                self._arm()
            return Granted(ticket, effects[0].key, now - begun, self._plain(effects[0].instead))
        future = self._waiting[ticket] = self._loop.create_future()
        self._do(effects)
        try:
            grant = await future
        except BaseException:  # cancelled, or told that narthex ends: a place given meanwhile goes back
            self._do(self._scheduler.cancel(ticket, self._loop.time()))
            raise
        finally:
            self._waiting.pop(ticket, None)
        place = self._places[grant.key]
        waited = self._loop.time() - begun
        return Granted(ticket, grant.key, waited, self._plain(grant.instead), place.loaded_at >= begun)

    def release(self, granted: Granted) -> None:
        """Give a place back. Safe to call twice."""
        effects = self._scheduler.finish(granted.ticket, self._loop.time())
        if effects:
            self._do(effects)
        elif self._timer is None:
            self._arm()

    def let_go(self, key: str, why: str) -> None:
        """Unload it as soon as it is idle."""
        self._do(self._scheduler.release(key, why, self._loop.time()))

    def forecast(self, choices: Sequence[str], rank: Rank = Rank.INTERACTIVE) -> Forecast:
        """What would happen to a request now."""
        return self._scheduler.forecast(choices, rank, self._loop.time())

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
        return self._scheduler.snapshot(self._loop.time())

    # what is really there

    async def look(self) -> None:
        """Ask the engines and the card what is there now; several callers share one look."""
        await asyncio.wait((self._begin_look(),))

    async def look_briefly(self) -> None:
        """The same, but an engine that does not answer is not waited for."""
        await asyncio.wait((self._begin_look(),), timeout=BRIEFLY_S)

    def doubt(self) -> None:
        """Something was seen that does not fit, as an engine that broke off: look now, and once more where
        a look is under way, which may have seen what was before."""
        if self._closed:
            return
        self._look_again = self._looking is not None and not self._looking.done()
        self._begin_look()

    def _begin_look(self) -> asyncio.Task[None]:
        if self._looking is None or self._looking.done():
            self._looking = self._begin(self._look())
        return self._looking

    async def _look(self) -> None:
        await self._look_once()
        while self._look_again:
            self._look_again = False
            await self._look_once()

    async def _look_once(self) -> None:
        hands = {id(place.hand): place.hand for place in self._places.values()}
        await asyncio.gather(self._look_at_card(), *(self._look_at(hand) for hand in hands.values()))
        self._looked_at = self._loop.time()

    async def _look_at_card(self) -> None:
        with contextlib.suppress(Exception):  # whatever keeps it from being told: what was known stays
            room, held = await asyncio.wait_for(self._observe(), LOOK_LIMIT_S)
            self._do(self._scheduler.observe(room, held, self._loop.time()))

    async def _look_at(self, hand: Hand) -> None:
        """Where it can't be told, nothing changes: unknown is not empty."""
        begun = self._loop.time()
        try:
            there = await asyncio.wait_for(hand.look(), LOOK_LIMIT_S)
        except Exception:  # whatever one engine answers, the others are looked at
            return
        self._compare(hand, there, begun)

    def _compare(self, hand: Hand, there: Sequence[Seen], begun: float) -> None:
        """``begun``: what was loaded since then need not have been seen."""
        now, found = self._loop.time(), {row.key: row for row in there}
        states = {row.key: row.state for row in self._scheduler.snapshot(now).holdings}
        for key, state in states.items():
            place = self._places.get(key)
            mine = place is not None and place.hand is hand and place.loaded_at < begun
            if mine and state == "ready" and key not in found:
                assert place is not None
                self._listener.vanished(place.offer)
                self._do(self._scheduler.vanished(key, None, now))
        for key, row in found.items():
            if key not in self._places and (foreign := _foreign(hand, key)) is not None:
                self.add(_guest(foreign, row), hand, foreign)
            if key in self._places and key not in states and self._places[key].gone_at < begun:
                self._places[key].loaded_at = now
                self._do(self._scheduler.appeared(key, row.held, now))

    # effects

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket=ticket):
                    self._settle(ticket, effect)
                case Refuse(ticket=ticket, trouble=trouble):
                    self._settle(ticket, trouble)
                case Load():
                    self._begin(self._load(effect))
                case Unload():
                    self._begin(self._unload(effect))
        self._arm()

    def _settle(self, ticket: int, answer: Grant | Trouble) -> None:
        future = self._waiting.get(ticket)
        if future is None or future.done():  # it left meanwhile; its cancellation gives the place back
            return
        if isinstance(answer, Trouble):
            answer.message, answer.remedy = self._plain(answer.message), self._plain(answer.remedy)
            # One that is remembered is raised again and again: it must not hold on to who heard it before.
            future.set_exception(answer.with_traceback(None))
        else:
            future.set_result(answer)

    def _plain(self, text: str) -> str:
        """The scheduler's words, with the names that people know in place of its keys. A key within a longer
        word is none, and words that were made plain stay as they are."""
        for key, place in self._places.items() if text else ():
            name = place.offer.name
            if key in text and not (key in name and name in text):
                text = name.join(re.split(rf"(?<!\w){re.escape(key)}(?!\w)", text))
        return text

    async def _load(self, effect: Load) -> None:
        place, begun = self._places[effect.key], self._loop.time()

        def told(progress: Progress) -> None:
            place.progress = progress

        try:
            self._listener.loading(place.offer, effect.clients, effect.evicted)
            held = await place.hand.load(place.offer, told)
        except Trouble as trouble:
            self._failed(effect, trouble, begun)
        except asyncio.CancelledError:  # by its hand, which was replaced; at the end nobody waits any more
            if self._closed:
                raise
            self._failed(effect, _called_off(place.offer), begun)
        except Exception as error:  # whatever it is, those who wait must hear of it
            words = f"Loading «{place.offer.name}» failed: {type(error).__name__}: {error}."
            self._failed(effect, Trouble(500, "gateway_fault", words), begun)
        else:
            now = place.loaded_at = self._loop.time()
            place.load_s = now - begun
            self._do(self._scheduler.loaded(effect.key, held, now))
            self._listener.loaded(place.offer, now - begun, held, effect.clients, effect.evicted)
        finally:
            place.progress = None

    def _failed(self, effect: Load, trouble: Trouble, begun: float) -> None:
        place = self._places[effect.key]
        now = place.gone_at = self._loop.time()
        self._do(self._scheduler.failed(effect.key, trouble, now))
        self._listener.failed(place.offer, now - begun, trouble, effect.clients)

    async def _unload(self, effect: Unload) -> None:
        place, begun = self._places[effect.key], self._loop.time()
        failed = False
        try:
            await place.hand.unload(place.offer)
        except (Exception, asyncio.CancelledError):  # what still holds memory is seen by a look
            if self._closed:
                raise
            failed = True
        now = place.gone_at = self._loop.time()
        self._do(self._scheduler.unloaded(effect.key, now))
        if failed:
            self.doubt()
        self._listener.evicted(place.offer, now - begun, self._plain(effect.why), effect.client)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # time

    def _arm(self) -> None:
        """Wake up when something is due, and for a look now and then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed:
            return
        now = self._loop.time()
        holdings = self._scheduler.snapshot(now).holdings
        busy = bool(self._waiting) or any(row.running or row.state != "ready" for row in holdings)
        due = now + (FRESH_S if busy else AT_REST_S if holdings else IDLE_LOOK_S)
        wake = self._scheduler.wake_at()
        self._timer = self._loop.call_at(min(due, wake) if wake is not None else due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now - self._looked_at >= FRESH_S:
            self._begin_look()
        self._do(self._scheduler.tick(now))

    def _is_ready(self, key: str) -> bool:
        place = self._places.get(key)
        return place is not None and place.loaded_at >= 0 and self._scheduler.is_ready(key)

    def no_more(self) -> None:
        """Refuse those who wait and those who come; what was granted goes on."""
        self._closed = True
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(_closing())

    async def close(self) -> None:
        """End what was started here, leave the rest as it is."""
        self.no_more()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        hands = {id(place.hand): place.hand for place in self._places.values()}
        await asyncio.gather(*(hand.close() for hand in hands.values()), return_exceptions=True)


def _foreign(hand: Hand, key: str) -> Offer | None:
    """What an engine holds that nobody here loaded; None where it is not known what it is."""
    ask: Callable[[str], Offer | None] | None = getattr(hand, "foreign", None)
    return ask(key) if ask is not None else None


def _guest(offer: Offer, row: Seen) -> Tenant:
    """It stays as long as its engine lets it, and goes where its room is needed."""
    return Tenant(key=offer.key, name=offer.name, need=row.held, twin=offer.twin, keep_alive_s=-1.0)


def _called_off(offer: Offer) -> Trouble:
    words = f"The load of «{offer.name}» was called off."
    return Trouble(503, "load_called_off", words, remedy="Ask again.", retry_after_s=1.0)


def _closing() -> Trouble:
    return Trouble(
        503, "shutting_down", "narthex is being stopped.", remedy="Try again in a moment.", retry_after_s=5
    )
