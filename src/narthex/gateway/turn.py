"""``Turn``: what becomes of one request, filled in on its way."""

from __future__ import annotations

import time

from narthex.gateway.ask import Ask
from narthex.gateway.conductor import Granted
from narthex.gateway.offer import Offer
from narthex.gateway.relay.tapped import Tapped
from narthex.gateway.routing.router import Route
from narthex.gateway.watch.record import RequestRecord

_NAME_LENGTH = 256  # letters kept of what a client calls a model: the log is no place for a megabyte


class Turn:
    """Made for each request for a model; :meth:`record` is its line in the log."""

    __slots__ = ("ask", "cause", "granted", "offer", "route", "status", "tapped")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.route: Route | None = None
        self.offer: Offer | None = None
        self.granted: Granted | None = None
        self.tapped: Tapped | None = None
        self.status = 500
        self.cause = ""

    def record(self, total_s: float) -> RequestRecord:
        """``total_s``: from its coming to its end."""
        ask, route, granted, offer, tapped = self.ask, self.route, self.granted, self.offer, self.tapped
        return RequestRecord(
            id=ask.id,
            at=time.time() - total_s,
            api=ask.api,
            path=ask.path,
            kind=ask.kind,
            model=ask.model[:_NAME_LENGTH],
            role=route.role if route else "",
            ran=offer.name if offer else "",
            key=offer.key if offer else "",
            choices=tuple(choice.key for choice in route.choices) if route else (),
            profile=offer.profile if offer else None,
            client=ask.client,
            task=ask.task,
            rank=int(ask.rank),
            stream=ask.stream,
            status=self.status,
            cause=self.cause,
            instead=(granted.instead if granted else "") or (route.instead if route else ""),
            waited_s=round(granted.waited_s if granted else total_s if self.cause else 0.0, 6),
            loaded_for=granted.loaded_for if granted else False,
            first_byte_s=tapped.first_byte_s if tapped else None,
            total_s=round(total_s, 6),
            prompt_bytes=ask.prompt_bytes,
            bytes_out=tapped.bytes_out if tapped else None,
            prompt_tokens=tapped.prompt_tokens if tapped else None,
            output_tokens=tapped.output_tokens if tapped else None,
            prompt_tps=tapped.prompt_tps if tapped else None,
            decode_tps=tapped.decode_tps if tapped else None,
            asked_ctx=ask.options.get("num_ctx") if isinstance(ask.options.get("num_ctx"), int) else None,
        )
