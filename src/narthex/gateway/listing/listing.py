"""``Listing``: what both APIs tell about models without a model. Always from what is known already: a load, a
hanging Ollama, or one that is down delays nothing here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from urllib.parse import quote, unquote

import msgspec
from aiohttp import web

from narthex import __version__
from narthex.gateway.door.door import read_body
from narthex.gateway.listing import entries
from narthex.gateway.listing.fresh import Fresh
from narthex.gateway.listing.ollama import OllamaView
from narthex.gateway.listing.shows import Shows
from narthex.gateway.listing.sources import Card, Describer, Roles, Shelf
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble

SPOKEN = "0.30.0"
"""Which Ollama the gateway is like where there is none: its API has the fields of that version, as
``capabilities`` in ``/api/tags``. Clients want integers with dots."""
BODY = 1 << 20  # a /api/show with overrides of the template is a few KiB

JSON = "application/json; charset=utf-8"
Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]


class Listing:
    """One gateway's answers. ``keep_alive_of``: how long an idle offer stays, in seconds; negative: for
    ever."""

    def __init__(
        self,
        shelf: Shelf,
        roles: Roles,
        card: Card,
        describe: Describer,
        *,
        ollama: OllamaView | None,
        keep_alive_of: Callable[[Offer], float],
    ) -> None:
        self._shelf, self._roles, self._card, self._describe = shelf, roles, card, describe
        self.ollama = ollama
        self._keep_alive_of = keep_alive_of
        self._shows = Shows(shelf, describe, ollama)
        self.fresh = Fresh(self._look)

    def routes(self) -> dict[tuple[str, str], Handler]:
        """(method, path) → handler; a path that ends in «/» takes all below it."""
        listed: dict[str, Handler] = {
            "/": self._root,
            "/api/tags": self._tags,
            "/api/ps": self._ps,
            "/api/version": self._version,
            "/v1/models": self._models,
            "/v1/models/": self._model,
        }
        routes = {(method, path): handler for path, handler in listed.items() for method in ("GET", "HEAD")}
        return {**routes, ("POST", "/api/show"): self._show}

    def join(self, ollama: OllamaView) -> None:
        """The Ollama that was found, or another in its place."""
        self.ollama = self._shows.ollama = ollama

    async def close(self) -> None:
        """End what runs."""
        await self.fresh.close()
        if self.ollama is not None:
            await self.ollama.close()

    def tags(self) -> entries.Rows:
        """Every name that can be asked, with its element of ``/api/tags``."""
        return entries.tag_rows(
            self._shelf.tags(), self._roles.roles(), list(self._others()), self._describe.tag_of
        )

    def _others(self) -> Iterator[tuple[str, Offer]]:
        """What is offered, and its further names; a file's path leads to it, too, and is not shown."""
        yield from ((offer.name, offer) for offer in self._shelf.offers())
        for name in self._shelf.names():
            offer = self._shelf.named(name)
            if offer is not None and not name.endswith(".gguf"):
                yield name, offer

    async def _look(self) -> bool:
        """What is there now, into the caches; whether everybody told."""
        if self.ollama is None:
            await self._shelf.refresh()
            return self._shelf.problem is None
        _, told = await asyncio.gather(self._shelf.refresh(), self.ollama.look())
        return told and self._shelf.problem is None

    async def _root(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        return web.Response(body=b"Ollama is running", headers={"Content-Type": "text/plain; charset=utf-8"})

    async def _tags(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        await self.fresh.please()
        return _json(_list(b"models", list(self.tags().values())))

    async def _ps(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        await self.fresh.please()
        rows = entries.ps_rows(
            self.ollama.ps if self.ollama is not None else (),
            self._shelf.tags(),
            snapshot=self._card.snapshot(),
            offers={offer.key: offer for offer in self._shelf.offers()},
            tag_of=self._describe.tag_of,
            expires=self._expires,
        )
        return _json(_list(b"models", rows))

    async def _version(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        if self.ollama is not None and not self.ollama.version:
            await self.fresh.please()
        version = (self.ollama.version if self.ollama is not None else "") or SPOKEN
        return _json(msgspec.json.encode({"version": version, "narthex": __version__}))

    async def _models(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        await self.fresh.please()
        rows = list(entries.model_rows(self.tags()))
        return _json(msgspec.json.encode({"object": "list", "data": rows}))

    async def _model(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        await self.fresh.please()
        asked = unquote(request.rel_url.raw_path.removeprefix("/v1/models/"))
        rows = {row["id"]: row for row in entries.model_rows(self.tags())}
        found = rows.get(asked) or rows.get(f"{asked}:latest")
        if found is None:
            raise Trouble(
                404, "model_not_found", f"There is no model «{asked}».", remedy="GET /v1/models lists them."
            )
        return _json(msgspec.json.encode(found))

    async def _show(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        body = await read_body(request, BODY)
        await self.fresh.please()
        status, answer, offer = await self._shows.answer(body, self._roles.roles())
        response = _json(answer, status)
        if offer is not None:
            response.headers["X-Narthex-Model"] = quote(offer.name, safe="/:@ ")
        return response

    def _expires(self, offer: Offer, idle_since: float | None) -> datetime:
        idle = 0.0 if idle_since is None else asyncio.get_running_loop().time() - idle_since
        return entries.expiry(self._keep_alive_of(offer), idle)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": JSON})


def _list(name: bytes, rows: list[msgspec.Raw]) -> bytes:
    return b'{"' + name + b'":[' + b",".join(bytes(row) for row in rows) + b"]}"
