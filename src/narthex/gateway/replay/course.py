"""``Course``: how a while went, in figures: as it was, or as it would have been."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import msgspec

from narthex.gateway.replay.reading import Log
from narthex.gateway.watch.record import RequestRecord


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One client's part."""

    client: str
    requests: int = 0
    refused: int = 0
    waited_s: float = 0.0  # all its requests together
    worst_s: float = 0.0
    loads: int = 0  # that were begun for it
    lost_s: float = 0.0  # of GPU, by swaps that it caused


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``lost_s``: seconds in which the card served nobody, because one model went for another."""

    requests: int
    answered: int
    refused: int  # no place in time, or none at all
    instead: int  # answered by something else than the first choice
    waited_median_s: float
    waited_95_s: float
    waited_worst_s: float
    loads: int
    swaps: int  # loads for which something had to go
    unloads: int
    lost_s: float
    shares: tuple[Share, ...]  # the one that lost most first


class Tally:
    """Adds up a course."""

    def __init__(self) -> None:
        self._waits: list[float] = []
        self._clients: defaultdict[str, Share] = defaultdict(lambda: Share(client=""))
        self._answered = self._refused = self._instead = 0
        self._loads = self._swaps = self._unloads = 0
        self._lost_s = 0.0

    def answered(self, client: str, waited_s: float, *, instead: bool) -> None:
        """A request got a place after this time."""
        self._answered += 1
        self._instead += instead
        self._waits.append(waited_s)
        self._add(client, requests=1, waited_s=waited_s)

    def refused(self, client: str, waited_s: float) -> None:
        """A request got none."""
        self._refused += 1
        self._waits.append(waited_s)
        self._add(client, requests=1, refused=1, waited_s=waited_s)

    def loaded(self, client: str, seconds: float, *, swap: bool) -> None:
        """A load, and whether something went for it."""
        self._loads += 1
        self._swaps += swap
        self._lost_s += seconds if swap else 0.0
        self._add(client, loads=1, lost_s=seconds if swap else 0.0)

    def unloaded(self, client: str, seconds: float) -> None:
        """An unload for a client's request, or ("") of an idle model."""
        self._unloads += 1
        if client:
            self._lost_s += seconds
            self._add(client, lost_s=seconds)

    def course(self) -> Course:
        """The sum."""
        waits = sorted(self._waits)
        return Course(
            requests=self._answered + self._refused,
            answered=self._answered,
            refused=self._refused,
            instead=self._instead,
            waited_median_s=at_share(waits, 0.5),
            waited_95_s=at_share(waits, 0.95),
            waited_worst_s=waits[-1] if waits else 0.0,
            loads=self._loads,
            swaps=self._swaps,
            unloads=self._unloads,
            lost_s=self._lost_s,
            shares=tuple(
                sorted(self._clients.values(), key=lambda one: (-one.lost_s, -one.waited_s, one.client))
            ),
        )

    def _add(self, client: str, **more: float) -> None:
        share = self._clients[client]
        changes = {name: getattr(share, name) + value for name, value in more.items()}
        worst = max(share.worst_s, more.get("waited_s", 0.0))
        self._clients[client] = msgspec.structs.replace(share, client=client, worst_s=worst, **changes)


def happened(log: Log, unload_s: float, keys: Collection[str]) -> Course:
    """How it really went with these models. ``unload_s`` for unloads whose duration was not written down."""
    tally = Tally()
    for row in counted(log.requests):
        if turned_away(row):
            tally.refused(row.client, row.waited_s)
        else:
            tally.answered(row.client, row.waited_s, instead=bool(row.instead))
    for load in (row for row in log.loads if row.key in keys):
        tally.loaded(load.clients[0] if load.clients else "", load.seconds, swap=bool(load.evicted))
    for gone in (row for row in log.unloads if row.key in keys):
        tally.unloaded(gone.client, gone.seconds if gone.seconds is not None else unload_s)
    return tally.course()


def counted(requests: Iterable[RequestRecord]) -> list[RequestRecord]:
    """Those that the scheduler had to do with: it gave them a place, or turned them away."""
    return [row for row in requests if row.choices or row.key]


def turned_away(row: RequestRecord) -> bool:
    """Whether it never got to a model."""
    return not row.served


def at_share(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of them lies; 0 where there is none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
