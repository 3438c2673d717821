"""``Desk``: what the gateway tells about itself, and the few things it can be told to do."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from narthex.errors import NarthexError
from narthex.gateway.ask import Ask, Rank
from narthex.gateway.body import UNREADABLE
from narthex.gateway.conductor import Conductor
from narthex.gateway.door.door import read_body
from narthex.gateway.fleet import Fleet
from narthex.gateway.listing.ollama import OllamaView
from narthex.gateway.offer import Offer
from narthex.gateway.routing.router import Router
from narthex.gateway.schedule.records import Forecast
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch import health
from narthex.gateway.watch.health import BackendState
from narthex.gateway.watch.metrics import CONTENT_TYPE, Metrics

Handler = Callable[[web.BaseRequest, str, str], Any]
BODY = 1 << 16
_DIGITS = 10  # of a number of tokens; Python reads no endless ones
JSON = "application/json; charset=utf-8"


class _Release(msgspec.Struct, forbid_unknown_fields=True):
    model: str  # a name, or a key as the state tells it


class Desk:
    """One gateway's. ``reload`` reads the policy again and raises NarthexError where it makes no sense."""

    def __init__(
        self,
        *,
        listen: str,
        fleet: Fleet,
        router: Router,
        conductor: Conductor,
        metrics: Metrics,
        ollama: Callable[[], OllamaView | None],
        reload: Callable[[], None],
        fresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._listen, self._fleet, self._router, self._conductor = listen, fleet, router, conductor
        self._metrics, self._ollama, self._reload, self._fresh = metrics, ollama, reload, fresh

    def routes(self) -> dict[tuple[str, str], Handler]:
        """(method, path) → handler."""
        return {
            ("GET", "/healthz"): self._healthz,
            ("HEAD", "/healthz"): self._healthz,
            ("GET", "/readyz"): self._readyz,
            ("HEAD", "/readyz"): self._readyz,
            ("GET", "/metrics"): self._metrics_text,
            ("GET", "/narthex/state"): self._state,
            ("GET", "/narthex/what-if"): self._what_if,
            ("POST", "/narthex/release"): self._release,
            ("POST", "/narthex/reload"): self._read_again,
        }

    async def _healthz(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        return _json(health.alive())

    async def _readyz(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        await self._fresh()
        ready = health.readiness(
            listen=self._listen,
            backends=self._backends(),
            roles=self._router.choices(),
            offers=self._fleet.offers(),
            snapshot=self._conductor.snapshot(),
            problems=(self._fleet.problem,) if self._fleet.problem else (),
        )
        return _json(ready.body(), ready.status)

    async def _metrics_text(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        self._metrics.known(self._fleet.offers())
        self._metrics.collect(self._conductor.snapshot())
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _state(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        snapshot = self._conductor.snapshot()
        names = {offer.key: offer.name for offer in self._fleet.offers()}
        body: dict[str, Any] = msgspec.to_builtins(snapshot)
        for row in body["holdings"]:
            row["name"] = names.get(row["key"], row["key"])
            progress = self._conductor.progress(row["key"])
            row["progress"] = msgspec.to_builtins(progress) if progress else None
        body["pid"] = os.getpid()
        return _json(msgspec.json.encode(body))

    async def _what_if(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        """The same route and the same chooser that a request would take; nothing is changed."""
        query = request.rel_url.query
        options: dict[str, Any] = {}
        if (ctx := query.get("num_ctx", "")).isdecimal():
            options["num_ctx"] = int(ctx[:_DIGITS])
        ask = Ask(
            id=number,
            api="ollama",
            kind="chat",
            path="/api/chat",
            model=query.get("model", ""),
            stream=True,
            body=b"",
            fields={},
            options=options,
        )
        route = self._router.route(ask)
        await self._conductor.look()
        found = self._conductor.forecast([offer.key for offer in route.choices], Rank.INTERACTIVE)
        names = {offer.key: offer for offer in self._fleet.offers()}
        body = {
            "model": ask.model,
            "role": route.role,
            "why": route.why,
            "instead": route.instead,
            "choices": [_told(offer) for offer in route.choices],
            "forecast": msgspec.to_builtins(_named(found, names)),
            "load_s": self._conductor.load_seconds(found.key) if found.key and not found.ready else 0.0,
        }
        return _json(msgspec.json.encode(body))

    async def _release(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        """Unload a model as soon as it is idle."""
        body = await read_body(request, BODY)
        try:
            wanted = msgspec.json.decode(body, type=_Release).model
        except UNREADABLE as error:
            raise Trouble(400, "bad_request", f"The body makes no sense: {error}.") from None
        present = {row.key for row in self._conductor.snapshot().holdings}
        named = self._fleet.named(wanted)
        meant = self._router.choices().get(wanted) or ((named,) if named is not None else ())
        keys = [wanted] if wanted in present else [offer.key for offer in meant]
        if not keys:
            words = f"There is no model «{wanted}»."
            raise Trouble(404, "model_not_found", words, remedy="GET /narthex/state tells what is loaded.")
        key = next((key for key in keys if key in present), keys[0])
        self._conductor.let_go(key, f"{client or 'a client'} asked for it")
        return _json(b'{"released":true}')

    async def _read_again(self, request: web.BaseRequest, client: str, number: str) -> web.Response:
        """At once; a file that makes no sense changes nothing, and is told with what is wrong in it."""
        await read_body(request, BODY)
        try:
            self._reload()
        except NarthexError as error:
            words = f"The policy stays as it was: {error.message}"
            raise Trouble(400, "bad_policy", words, remedy=error.hint) from error
        await self._fleet.refresh()
        return _json(b'{"reloaded":true}')

    def _backends(self) -> tuple[BackendState, ...]:
        rows = []
        view = self._ollama()
        if view is not None:
            rows.append(BackendState(name="ollama", url=view.url, version=view.version, answers=view.answers))
        rows.append(BackendState(name="llama-server"))
        return tuple(rows)


def _told(offer: Offer) -> dict[str, Any]:
    return {
        "name": offer.name,
        "key": offer.key,
        "backend": offer.backend,
        "profile": offer.profile,
        "num_ctx": offer.num_ctx,
        "need_bytes": offer.need_bytes,
        "need_source": offer.need_source,
    }


def _named(found: Forecast, offers: Mapping[str, Offer]) -> Forecast:
    """With names that a person knows instead of keys."""

    def name(key: str) -> str:
        return offers[key].name if key in offers else key

    return msgspec.structs.replace(
        found,
        key=name(found.key) if found.key else None,
        evicts=tuple(name(key) for key in found.evicts),
        waits_for=tuple(name(key) for key in found.waits_for),
    )


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": JSON})
