"""``Metrics``: what ``/metrics`` shows. Requests are counted in plain numbers; Prometheus' own objects
are made when somebody asks."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from narthex import __version__
from narthex.gateway.ask import Rank
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Snapshot
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch import figures
from narthex.gateway.watch.counts import Names, Rows, Spread
from narthex.gateway.watch.families import family, histogram
from narthex.gateway.watch.figures import Figure
from narthex.gateway.watch.record import RequestRecord

MODELS = 100  # label values of each kind; what comes later is counted as «other»
CLIENTS = 50
CAUSES = 100
ROLES = 50

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RANKS = {int(rank): rank.name.lower() for rank in Rank}


class Metrics:
    """One gateway's figures. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._models, self._clients = Names(MODELS), Names(CLIENTS)
        self._causes, self._roles = Names(CAUSES), Names(ROLES)
        self._counts: dict[str, Rows[float]] = {
            one.name: defaultdict(float) for one in figures.FIGURES if one.kind == "counter"
        }
        self._spreads: dict[str, Rows[Spread]] = {
            one.name: {} for one in figures.FIGURES if one.kind == "histogram"
        }
        self._gauges: dict[str, Rows[float]] = {
            one.name: {} for one in figures.FIGURES if one.kind == "gauge"
        }
        self._requests: Counter[tuple[str, str, int, str]] = Counter()
        self._gauges[figures.INFO.name][__version__,] = 1
        self._gauges[figures.UP_SINCE.name][()] = time.time()
        self._keys: dict[str, str] = {}  # an offer's key: its name
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self))

    def known(self, offers: Sequence[Offer]) -> None:
        """The offers there are: their names take the place of their keys in a snapshot."""
        self._keys |= {offer.key: offer.name for offer in offers}

    def done(self, record: RequestRecord) -> None:
        """A request ended. Called for each one, so it does little."""
        self._requests[record.api, record.role, record.status, record.cause] += 1
        if not record.ran:
            return
        model = (self._models.of(record.ran),)
        self._spread(figures.WAITED, (_RANKS.get(record.rank, "other"),)).add(record.waited_s)
        if record.first_byte_s is not None:
            self._spread(figures.FIRST_BYTE, model).add(record.first_byte_s)
        if record.decode_tps is not None:
            self._spread(figures.DECODE, model).add(record.decode_tps)
        if record.prompt_tokens:
            self._counts[figures.PROMPT_TOKENS.name][model] += record.prompt_tokens
        if record.output_tokens:
            self._counts[figures.OUTPUT_TOKENS.name][model] += record.output_tokens
        if record.instead:
            self._counts[figures.INSTEAD.name][self._roles.of(record.role), model[0]] += 1

    def loaded(self, offer: Offer, seconds: float, clients: Sequence[str], evicted: Sequence[str]) -> None:
        """A load ended well. Its seconds are a swap's only where something had to go for it."""
        model, client = self._models.of(offer.name), self._client(clients)
        self._counts[figures.LOADS.name][model, client] += 1
        self._spread(figures.LOAD, (model,)).add(seconds)
        if evicted:
            self._lost(client, seconds)

    def failed(self, offer: Offer, trouble: Trouble) -> None:
        """A load ended badly."""
        cause = self._causes.of(trouble.cause)
        self._counts[figures.LOADS_FAILED.name][self._models.of(offer.name), cause] += 1
        self._counts[figures.ERRORS.name][cause,] += 1

    def evicted(self, offer: Offer, seconds: float, client: str) -> None:
        """A model was unloaded, for a client's request or (client "") because it was idle."""
        client = self._clients.of(client) if client else ""
        self._counts[figures.EVICTIONS.name][self._models.of(offer.name), client] += 1
        if client:
            self._lost(client, seconds)

    def collect(self, snapshot: Snapshot) -> None:
        """Take over how things are now; called before :meth:`text`."""
        self._queue(snapshot)
        running: Rows[float] = defaultdict(float)
        resident: Rows[float] = {}
        vram: Rows[float] = defaultdict(float)
        for row in snapshot.holdings:
            model = self._models.of(self._keys.get(row.key, row.key))
            running[model,] += row.running
            resident[model, row.state] = 1
            if row.held is not None:
                vram[model,] += row.held
        vram["others",] += snapshot.room.others
        self._gauges[figures.RUNNING.name] = running
        self._gauges[figures.RESIDENT.name] = resident
        self._gauges[figures.VRAM.name] = vram
        total = snapshot.room.total
        self._gauges[figures.VRAM_TOTAL.name] = {} if total is None else {(): total}
        self._gauges[figures.VRAM_RESERVE.name] = {(): snapshot.room.reserve}
        self._gauges[figures.REMEMBERED.name] = {(): len(snapshot.remembered)}

    def text(self) -> bytes:
        """The page, as Prometheus reads it (:data:`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _queue(self, snapshot: Snapshot) -> None:
        lengths: Rows[float] = {(name,): 0 for name in _RANKS.values()}
        for waiting in snapshot.waiting:
            lengths[_RANKS.get(int(waiting.rank), "other"),] += 1
        self._gauges[figures.QUEUE.name] = lengths

    def _client(self, clients: Sequence[str]) -> str:
        return self._clients.of(clients[0]) if clients and clients[0] else ""

    def _lost(self, client: str, seconds: float) -> None:
        self._counts[figures.SWAP_LOST.name][client,] += seconds

    def _spread(self, figure: Figure, labels: tuple[str, ...]) -> Spread:
        rows = self._spreads[figure.name]
        found = rows.get(labels)
        if found is None:
            found = rows[labels] = Spread(figure.buckets)
        return found

    def families(self) -> Iterator[Metric]:
        """Every figure in Prometheus' own objects."""
        self._fold()
        for figure in figures.FIGURES:
            if figure.kind == "histogram":
                yield histogram(figure, self._spreads[figure.name])
            else:
                rows = self._counts if figure.kind == "counter" else self._gauges
                yield family(figure, rows[figure.name])

    def _fold(self) -> None:
        """Requests counted since the last page, with their labels bounded."""
        pending, self._requests = self._requests, Counter()
        for (api, role, status, cause), count in pending.items():
            labels = (api, self._roles.of(role), str(status), self._causes.of(cause))
            self._counts[figures.REQUESTS.name][labels] += count
            if cause:
                self._counts[figures.ERRORS.name][labels[-1:]] += count


class _Families(Collector):
    """Prometheus' way to ask for all of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()
