"""A card without a clock: what comes out of the scheduler is done when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narthex.gateway.ask import Rank
from narthex.gateway.schedule.records import Effect, Grant, Load, Refuse, Room, Rules, Tenant, Ticket, Unload
from narthex.gateway.schedule.scheduler import Scheduler
from narthex.gateway.trouble import Trouble

GB = 2**30


class Card:
    """Tenants by a letter, sizes in GiB, and a time that only :meth:`later` moves."""

    def __init__(self, total: int | None = 24, *, reserve: int = 0, others: int = 0, **rules: Any) -> None:
        self.now = 0.0
        self.room = Room(
            total=None if total is None else total * GB, reserve=reserve * GB, others=others * GB
        )
        self.scheduler = Scheduler(Rules(**({"residency_s": 0.0} | rules)), self.room)
        self.effects: list[Effect] = []
        self._last = 0

    # what is there

    def tenant(self, key: str, need: int | None, **figures: Any) -> str:
        size = None if need is None else need * GB
        self.scheduler.add(Tenant(key=key, need=size, **figures))
        return key

    def warm(self, key: str, need: int | None = None, **figures: Any) -> str:
        if need is not None:
            self.tenant(key, need, **figures)
        self.take(self.scheduler.appeared(key, None, self.now))
        return key

    def take(self, effects: Sequence[Effect]) -> list[Effect]:
        self.scheduler.check()
        self.effects += effects
        return list(effects)

    # what happens

    def ask(self, *choices: str, rank: Rank = Rank.INTERACTIVE, **figures: Any) -> int:
        self._last += 1
        ticket = Ticket(id=self._last, choices=choices, rank=rank, **figures)
        self.take(self.scheduler.submit(ticket, self.now))
        return self._last

    def end(self, ticket: int) -> list[Effect]:
        return self.take(self.scheduler.finish(ticket, self.now))

    def cancel(self, ticket: int) -> list[Effect]:
        return self.take(self.scheduler.cancel(ticket, self.now))

    def loaded(self, key: str, held: int | None = None) -> list[Effect]:
        size = None if held is None else held * GB
        return self.take(self.scheduler.loaded(key, size, self.now))

    def failed(self, key: str, *, lasting: bool = False) -> list[Effect]:
        trouble = Trouble(500, "vram_oom_on_load", f"«{key}» ran out of memory.", lasting=lasting)
        return self.take(self.scheduler.failed(key, trouble, self.now))

    def unloaded(self, key: str) -> list[Effect]:
        return self.take(self.scheduler.unloaded(key, self.now))

    def vanished(self, key: str) -> list[Effect]:
        return self.take(self.scheduler.vanished(key, None, self.now))

    def release(self, key: str) -> list[Effect]:
        return self.take(self.scheduler.release(key, "an admin asked for it", self.now))

    def observe(self, others: int = 0, **held: int) -> list[Effect]:
        room = Room(total=self.room.total, reserve=self.room.reserve, others=others * GB)
        sizes = {key: size * GB for key, size in held.items()}
        return self.take(self.scheduler.observe(room, sizes, self.now))

    def later(self, seconds: float) -> list[Effect]:
        """Time passes, and the scheduler is woken up whenever it wanted to be."""
        end, done = self.now + seconds, []
        while (wake := self.scheduler.wake_at()) is not None and wake <= end:
            self.now = max(self.now, wake)
            done += self.take(self.scheduler.tick(self.now))
        self.now = end
        return done + self.take(self.scheduler.tick(end))

    def settle(self, *, fail: str = "") -> None:
        """Do every load and unload that is asked for, at once, until there is none."""
        done = 0
        while done < len(self.effects):
            match self.effects[done]:
                case Load(key=key) if self.state(key) == "loading":
                    self.failed(key) if key == fail else self.loaded(key)
                case Unload(key=key) if self.state(key) == "unloading":
                    self.unloaded(key)
            done += 1

    # what came of it

    def state(self, key: str) -> str:
        rows = self.scheduler.snapshot(self.now).holdings
        return next((row.state for row in rows if row.key == key), "")

    def running(self, key: str) -> int:
        rows = self.scheduler.snapshot(self.now).holdings
        return next((row.running for row in rows if row.key == key), 0)

    def granted(self, ticket: int) -> str:
        """Where it went; "" where it waits."""
        return next((one.key for one in self.effects if isinstance(one, Grant) and one.ticket == ticket), "")

    def instead(self, ticket: int) -> str:
        return next(one.instead for one in self.effects if isinstance(one, Grant) and one.ticket == ticket)

    def refusal(self, ticket: int) -> Trouble | None:
        rows = (one.trouble for one in self.effects if isinstance(one, Refuse) and one.ticket == ticket)
        return next(rows, None)

    def waits(self, ticket: int) -> bool:
        return any(row.ticket == ticket for row in self.scheduler.snapshot(self.now).waiting)

    @property
    def loads(self) -> list[str]:
        return [one.key for one in self.effects if isinstance(one, Load)]

    @property
    def unloads(self) -> list[str]:
        return [one.key for one in self.effects if isinstance(one, Unload)]
