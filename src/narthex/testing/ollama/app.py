"""The HTTP side: routes, the Host check, and the access log."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from narthex.testing.ollama import building, compat, embedding, inference, listing
from narthex.testing.ollama.pending import ClientLeft
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.wire import Refused, refusal

Handler = Callable[[Serving, web.Request], Awaitable[web.StreamResponse]]
_TEXT = {"Content-Type": "text/plain"}
_LOCAL = (".localhost", ".local", ".internal")


async def root(serving: Serving, request: web.Request) -> web.Response:
    """``GET /``."""
    return web.Response(text="Ollama is running")


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/"): root,
    ("HEAD", "/"): root,
    ("GET", "/api/version"): listing.version,
    ("HEAD", "/api/version"): listing.version,
    ("GET", "/api/tags"): listing.tags,
    ("HEAD", "/api/tags"): listing.tags,
    ("GET", "/api/ps"): listing.ps,
    ("POST", "/api/show"): listing.show,
    ("POST", "/api/generate"): inference.generate,
    ("POST", "/api/chat"): inference.chat,
    ("POST", "/api/embed"): embedding.embed,
    ("POST", "/api/embeddings"): embedding.embeddings,
    ("POST", "/api/create"): building.create,
    ("POST", "/api/copy"): building.copy,
    ("POST", "/api/pull"): building.pull,
    ("DELETE", "/api/delete"): building.delete,
    ("GET", "/v1/models"): compat.models,
    ("POST", "/v1/chat/completions"): compat.chat_completions,
    ("POST", "/v1/completions"): compat.completions,
    # the rest of these paths is an argument
    ("HEAD", "/api/blobs/"): building.blob,
    ("POST", "/api/blobs/"): building.blob,
    ("GET", "/v1/models/"): compat.model,
}
_SINCE = {"/api/ps": (0, 1, 38), "/api/embed": (0, 2, 6)}


def application(serving: Serving) -> web.Application:
    """All routes behind one door, since 404, 405 and 403 have Ollama's own shapes."""

    async def door(request: web.Request) -> web.StreamResponse:
        started = time.monotonic_ns()
        status: int | None = 500
        try:
            response = await _answer(serving, request)
            status = response.status
            return response
        except ClientLeft as left:
            status = left.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            status = 200 if request.get("streaming") else 500
            raise
        finally:
            client = request.remote or "127.0.0.1"
            spent = time.monotonic_ns() - started
            if status is not None:
                serving.log.access(status, spent, client, request.method, request.path_qs)

    app = web.Application(client_max_size=2**40)
    app.router.add_route("*", "/{path:.*}", door)
    return app


async def _answer(serving: Serving, request: web.Request) -> web.StreamResponse:
    if not _host_is_known(request) or not _origin_is_known(request):
        return web.Response(status=403)
    place = next((p for p in ("/api/blobs/", "/v1/models/") if request.path.startswith(p)), request.path)
    handler = ROUTES.get((request.method, place))
    known = serving.manner.since(*_SINCE.get(place, (0,)))
    if handler is None or not known:
        allowed = sorted(method for method, path in ROUTES if path == place)
        if allowed and known:
            headers = {**_TEXT, "Allow": ", ".join(allowed)}
            return web.Response(status=405, body=b"405 method not allowed", headers=headers)
        return web.Response(status=404, body=b"404 page not found", headers=_TEXT)
    try:
        return await handler(serving, request)
    except Refused as refused:
        return refusal(refused)


def _host_is_known(request: web.Request) -> bool:
    host = urlsplit(f"//{request.host}").hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost") or host.endswith(_LOCAL)
    return address.is_loopback or address.is_private


def _origin_is_known(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).hostname in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
