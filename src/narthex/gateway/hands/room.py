"""``RoomReader``: how much of the card there is to give away, and who holds it, as NVML says now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from narthex.gateway.schedule.records import Room
from narthex.host.collect import read_memory
from narthex.host.gpu import Nvml, open_nvml
from narthex.host.processes import family
from narthex.units import format_size


class Holder(Protocol):
    """A hand, as far as its tenants can be measured."""

    def pids(self) -> dict[str, frozenset[int]]:
        """The processes of each tenant that lives and can be seen."""
        ...

    def told(self) -> dict[str, int]:
        """What each holds by its engine's word."""
        ...


class RoomReader:
    """Reads the room for the conductor, once a second: ``room, held = await reader()``."""

    def __init__(
        self,
        budget: int | None,
        reserve: int,
        hands: Sequence[Holder],
        *,
        elsewhere: bool = False,
        roots: Iterable[int] = (),
    ) -> None:
        """As :func:`read_room`."""
        self.budget, self.reserve, self.elsewhere = budget, reserve, elsewhere
        self._hands, self._roots = tuple(hands), tuple(roots)

    async def __call__(self) -> tuple[Room, dict[str, int]]:
        """In a thread: a driver that hangs must not stop the gateway."""
        return await asyncio.to_thread(self.now)

    def now(self) -> tuple[Room, dict[str, int]]:
        """The same, here and now."""
        pids = {key: found for hand in self._hands for key, found in hand.pids().items()}
        told = {key: size for hand in self._hands for key, size in hand.told().items()}
        return read_room(
            self.budget, self.reserve, pids, told=told, elsewhere=self.elsewhere, roots=self._roots
        )

    @property
    def words(self) -> str:
        """Where its figures come from, for people."""
        return room_words(self.budget, elsewhere=self.elsewhere)


def read_room(
    budget: int | None,
    reserve: int,
    pids_by_key: Mapping[str, Iterable[int]],
    *,
    told: Mapping[str, int] | None = None,
    elsewhere: bool = False,
    roots: Iterable[int] = (),
) -> tuple[Room, dict[str, int]]:
    """The card, and what each key holds of it. Blocks for some milliseconds: call it in a thread.

    ``budget``: bytes that may be given away, None: all of the card. ``reserve`` stays free. ``pids_by_key``:
    the processes of each tenant. ``told``: what each holds by its engine's word, where NVML does not list
    its processes. ``elsewhere``: the engine computes on another machine, of which only the budget is known.
    ``roots``: processes whose children, like narthex' own, are no strangers, also while they still load.

    Without a card the main memory is what is given away. There, as under a budget without a card, only
    ``told`` counts as held.
    """
    said = dict(told or {})
    if elsewhere:
        return Room(total=budget, reserve=reserve), said
    nvml, _ = open_nvml()
    cards = nvml.devices() if nvml is not None else []
    if nvml is None or not cards:
        return _without_card(budget, reserve, said)
    totals = [nvml.ask("nvmlDeviceGetMemoryInfo", card) for card in cards]
    if any(memory is None for memory in totals):
        return Room(total=budget, reserve=reserve), said
    total, used = sum(memory.total for memory in totals), sum(memory.used for memory in totals)
    tenants = _tenants(nvml, cards)
    seen = {key: size for key, pids in pids_by_key.items() if (size := _sum(tenants, pids)) is not None}
    held = said | seen
    ours = frozenset(pid for pids in pids_by_key.values() for pid in pids)
    loading = _sum(tenants, _families(roots) - ours) or 0
    return shared_out(total, used - loading, held, budget, reserve), held


def shared_out(total: int, used: int, held: Mapping[str, int], budget: int | None, reserve: int) -> Room:
    """What is used and not held by a key is others'. Under a budget they only count as far as they leave
    less than that of the card."""
    others = max(0, used - sum(held.values()))
    if budget is None or budget >= total:
        return Room(total=total, reserve=reserve, others=others)
    return Room(total=budget, reserve=reserve, others=max(0, others - (total - budget)))


def room_words(budget: int | None, *, elsewhere: bool = False) -> str:
    """Where the room's figures come from, for people."""
    given = f"the budget, {format_size(budget)}" if budget is not None else ""
    if elsewhere:
        return (
            given or "The engine computes elsewhere, and no budget is set: whatever is asked for is loaded."
        )
    nvml, why = open_nvml()
    cards = nvml.devices() if nvml is not None else []
    if nvml is not None and cards:
        return f"VRAM by NVML{f', at most {given}' if given else ''}."
    if given:
        return f"No card that NVML knows ({why or 'it lists none'}): {given}."
    total = format_size(read_memory()[0])
    return f"No card that NVML knows ({why or 'it lists none'}): the main memory, {total}, is given away."


def _without_card(budget: int | None, reserve: int, said: dict[str, int]) -> tuple[Room, dict[str, int]]:
    if budget is not None:
        return Room(total=budget, reserve=reserve), said
    total, available = read_memory()
    if not total:
        return Room(reserve=reserve), said
    # Mapped weights are page cache, which counts as available: others' share is an upper bound.
    others = max(0, total - available - sum(said.values()))
    return Room(total=total, reserve=reserve, others=others), said


def _tenants(nvml: Nvml, cards: Iterable[Any]) -> dict[int, int | None]:
    """Process id → bytes on all cards; None where the driver does not tell its size."""
    found: dict[int, int | None] = {}
    for card in cards:
        on_card: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics"):  # a process may be on both lists, with the same size
            for row in nvml.ask(f"nvmlDeviceGet{kind}RunningProcesses", card) or ():
                on_card[row.pid] = max(on_card.get(row.pid) or 0, row.usedGpuMemory or 0) or None
        for pid, size in on_card.items():
            found[pid] = (found.get(pid) or 0) + (size or 0) or None
    return found


def _sum(tenants: Mapping[int, int | None], pids: Iterable[int]) -> int | None:
    """Of these processes together; None where the driver lists none of them, or no size."""
    sizes = [size for pid in pids if (size := tenants.get(pid)) is not None]
    return sum(sizes) if sizes else None


def _families(roots: Iterable[int]) -> frozenset[int]:
    return frozenset().union(*(family(pid) for pid in (os.getpid(), *roots)))
