"""``Telling``: who hears what the gateway does: the figures, the log, the journal, the request log."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence

from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.events import Events
from narthex.gateway.watch.metrics import Metrics
from narthex.gateway.watch.record import LoadRecord, RequestRecord, StartRecord, UnloadRecord
from narthex.gateway.watch.request_log import RequestLog


class Telling:
    """One gateway's. ``log`` None: no line is written for requests."""

    def __init__(self, metrics: Metrics, events: Events, log: RequestLog | None) -> None:
        self.metrics, self.events, self.log = metrics, events, log
        self.changed: Callable[[], None] = _nobody  # hears that something was loaded or let go
        self.name_of: Callable[[str], str] = str  # what people call a key

    def asked(self, record: RequestRecord) -> None:
        """A request for a model ended. On the hot path."""
        self.metrics.done(record)
        if self.log is not None:
            self.log.add(record)
        if record.status >= 500:
            self.events.say(
                "refused" if not record.ran else "failed",
                request=record.id,
                status=record.status,
                cause=record.cause,
                model=record.model,
                client=record.client,
            )

    def started(self, record: StartRecord) -> None:
        """The gateway began, or took another policy."""
        if self.log is not None:
            self.log.add(record)

    def loading(self, offer: Offer, clients: Sequence[str], evicted: Sequence[str]) -> None:
        """A load begins."""
        self.events.say(
            "loading", model=offer.name, profile=offer.profile, clients=clients, evicted=self._names(evicted)
        )

    def loaded(
        self, offer: Offer, seconds: float, held: int | None, clients: Sequence[str], evicted: Sequence[str]
    ) -> None:
        """A load ended well."""
        self.changed()
        self.metrics.loaded(offer, seconds, clients, evicted)
        self.events.keep(
            "loaded",
            model=offer.name,
            profile=offer.profile,
            client=clients[0] if clients else "",
            seconds=round(seconds, 3),
            held_bytes=held,
            evicted=self._names(evicted),
        )
        self._load(offer, seconds=seconds, held=held, clients=clients, evicted=evicted, cause="")

    def failed(self, offer: Offer, seconds: float, trouble: Trouble, clients: Sequence[str]) -> None:
        """A load ended badly."""
        self.metrics.failed(offer, trouble)
        self.events.keep(
            "load_failed",
            trouble.message,
            model=offer.name,
            profile=offer.profile,
            client=clients[0] if clients else "",
            cause=trouble.cause,
            remedy=trouble.remedy,
            evidence=trouble.evidence[:3],
        )
        self._load(offer, seconds=seconds, held=None, clients=clients, evicted=(), cause=trouble.cause)

    def evicted(self, offer: Offer, seconds: float, why: str, client: str) -> None:
        """A model was let go."""
        self.changed()
        self.metrics.evicted(offer, seconds, client)
        self.events.keep(
            "unloaded", why, model=offer.name, profile=offer.profile, client=client, seconds=round(seconds, 3)
        )
        if self.log is not None:
            self.log.add(
                UnloadRecord(
                    at=time.time(),
                    key=offer.key,
                    name=offer.name,
                    why=why,
                    client=client,
                    seconds=round(seconds, 6),
                )
            )

    def vanished(self, offer: Offer) -> None:
        """A model is no longer there, without our doing."""
        self.changed()
        self.events.keep("vanished", "It is gone without narthex' doing.", model=offer.name)

    def fault(self, number: str, error: Exception) -> None:
        """A fault of narthex itself."""
        self.events.say("fault", "".join(traceback.format_exception(error)), request=number)

    async def close(self) -> None:
        """Write what is left."""
        if self.log is not None:
            await self.log.close()
        await self.events.close()

    def _names(self, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.name_of(key) for key in keys)

    def _load(
        self,
        offer: Offer,
        *,
        seconds: float,
        held: int | None,
        clients: Sequence[str],
        evicted: Sequence[str],
        cause: str,
    ) -> None:
        if self.log is not None:
            self.log.add(
                LoadRecord(
                    at=time.time(),
                    key=offer.key,
                    name=offer.name,
                    seconds=round(seconds, 6),
                    need=offer.need_bytes,
                    held=held,
                    slots=offer.slots,
                    twin=offer.twin,
                    elastic=offer.elastic,
                    clients=tuple(clients),
                    evicted=tuple(evicted),
                    cause=cause,
                )
            )


def _nobody() -> None:
    """Nobody listens."""
