"""What a log tells about the models in it: how large they are, how long they load, how long they work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from narthex.gateway.replay.course import counted
from narthex.gateway.replay.reading import Log
from narthex.gateway.schedule.records import Room, Tenant
from narthex.gateway.watch.record import LoadRecord, RequestRecord, TenantFigures, UnloadRecord
from narthex.policy.records import GatewayPolicy

UNLOAD_S = 1.0  # where nothing tells: Ollama gives the memory back after 0.5 to 1.5 s


class Learnt:
    """A log's models. ``gaps``: what it did not tell, and what was taken instead."""

    def __init__(self, log: Log) -> None:
        self._figures = {one.key: one for start in log.starts for one in start.tenants}
        self._held = {row.key: row.held for row in log.loads if row.held is not None}
        for load in log.loads:
            self._figures.setdefault(
                load.key,
                TenantFigures(
                    key=load.key,
                    name=load.name,
                    need=load.need,
                    slots=load.slots,
                    twin=load.twin,
                    elastic=load.elastic,
                ),
            )
        self.room = _room(log)
        self.names = {key: one.name or key for key, one in self._figures.items()}
        self.requests = counted(log.requests)
        self.gaps: list[str] = []
        self._load_s = _medians((row.key, row.seconds) for row in log.loads if not row.cause)
        self._unload_s = _medians((row.key, row.seconds) for row in log.unloads if row.seconds is not None)
        self._service_s = _medians((row.key, row.service_s) for row in self.requests if row.served)
        self.never = {row.key: row.cause for row in log.loads if row.cause and row.key not in self._load_s}
        self.keys = tuple(
            dict.fromkeys(key for row in self.requests for key in (*row.choices, row.key) if key)
        )
        self.resident = self._there_at_first(log)
        self._note_gaps(log)

    def tenants(self, policy: GatewayPolicy, before: GatewayPolicy) -> list[Tenant]:
        """As the scheduler takes them. A model that had the gateway's keep-alive has its new one, too."""
        rows = []
        for key in self.keys:
            figures = self._figures.get(key, TenantFigures(key=key))
            own = figures.keep_alive_s
            inherits = own is None or own == before.keep_alive
            rows.append(
                Tenant(
                    key=key,
                    need=self._held.get(key, figures.need),
                    slots=figures.slots,
                    twin=figures.twin,
                    elastic=figures.elastic,
                    keep_alive_s=policy.keep_alive if own is None or inherits else own,
                    pinned=figures.pinned,
                )
            )
        return rows

    def load_s(self, key: str) -> float:
        """Seconds of its load: its own median, else that of all."""
        return self._load_s.get(key, _middle(self._load_s.values()))

    def unload_s(self, key: str) -> float:
        """Seconds until its memory is free."""
        return self._unload_s.get(key, UNLOAD_S)

    def service_s(self, row: RequestRecord, key: str) -> float:
        """Seconds in which a request holds its place: as it did, else as its like do there."""
        if row.served:
            return row.service_s
        return self._service_s.get(key, _middle(self._service_s.values()))

    def _there_at_first(self, log: Log) -> tuple[str, ...]:
        """What was loaded when the log began: told, or asked for and used without a load."""
        told = log.starts[0].resident if log.starts else ()
        loaded: set[str] = set()
        seen: dict[str, None] = dict.fromkeys(told)
        rows: list[LoadRecord | UnloadRecord | RequestRecord] = [*log.loads, *log.unloads, *self.requests]
        for row in sorted(rows, key=lambda row: row.at):
            if row.key and row.key not in loaded:
                if isinstance(row, RequestRecord) and row.served and not row.loaded_for:
                    seen.setdefault(row.key)
                loaded.add(row.key)
        return tuple(key for key in seen if key in self.keys)

    def _note_gaps(self, log: Log) -> None:
        unknown = [
            self.names.get(key, key)
            for key in self.keys
            if key not in self._held and self._figures.get(key, TenantFigures(key=key)).need is None
        ]
        if unknown:
            self.gaps.append(
                f"How much VRAM they need is not in the log: {', '.join(unknown)}. They are let in by trial."
            )
        if self.room.total is None:
            self.gaps.append(
                "The card's VRAM is not in the log: everything fits. Give it with --set vram=20GB."
            )
        moves: list[LoadRecord | UnloadRecord] = [*log.loads, *log.unloads]
        others = {row.name for row in moves if row.key not in self.keys}
        if others:
            self.gaps.append(f"Not asked for by any request, so not replayed: {', '.join(sorted(others))}.")
        untimed = [self.names.get(key, key) for key in self.keys if key not in self._load_s]
        if untimed and self._load_s:
            self.gaps.append(
                f"Never loaded in this log: {', '.join(untimed)}. A load takes as long as the others' here."
            )
        elif untimed:
            self.gaps.append("No load is in the log, so loads take no time here.")


def _room(log: Log) -> Room:
    """The card as the newest start saw it."""
    if not log.starts:
        return Room()
    return Room(total=log.starts[-1].total, reserve=log.starts[-1].reserve)


def _medians(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in rows:
        values[key].append(value)
    return {key: median(found) for key, found in values.items()}


def _middle(values: Iterable[float]) -> float:
    found = list(values)
    return median(found) if found else 0.0
