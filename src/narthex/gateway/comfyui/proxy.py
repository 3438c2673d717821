"""``ComfyProxy``: ComfyUI behind the gateway, on a path of its port or on a port of its own.

Everything passes as it came: its page, its files, its WebSocket, plain and below ``/api``. Two requests are
looked at. A prompt waits for its turn at the card where the policy leases it; and an interrupt that names no
prompt, as older pages of ComfyUI send it, would stop whatever runs, so it is given the running prompt's id
where the same client sent that prompt, and is refused where it did not.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from narthex.gateway.comfyui.arbiter import Arbiter
from narthex.gateway.comfyui.client import ComfyClient, lost_words, unreachable
from narthex.gateway.comfyui.headers import to_client, to_comfyui
from narthex.gateway.comfyui.refusal import refused
from narthex.gateway.comfyui.senders import Sender, Senders, sender_of
from narthex.gateway.comfyui.websocket import carry
from narthex.gateway.door.door import read_body
from narthex.gateway.trouble import Trouble
from narthex.tenants.comfyui_api import ComfyError

BODY_BYTES = 64 << 20  # of a prompt; uploads are streamed and have no limit here
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_Body = bytes | AsyncIterator[bytes] | None


class ComfyProxy:
    """``arbiter`` None: prompts are passed on at once."""

    def __init__(
        self, comfyui: ComfyClient, arbiter: Arbiter[Any] | None = None, *, body_bytes: int = BODY_BYTES
    ) -> None:
        self.comfyui, self.arbiter = comfyui, arbiter
        self._body_bytes = body_bytes
        self._senders = Senders()

    async def handle(self, request: web.BaseRequest, path: str, client: str = "") -> web.StreamResponse:
        """One request. ``path``: as ComfyUI sees it, encoded, with its query; ``client``: the key's name.

        ComfyUI's own path is «/»; for "", the prefix without its slash, the page is sent there, since its
        addresses are relative.
        """
        if not path.startswith("/"):
            return web.Response(status=308, headers={"Location": f"{request.rel_url.raw_path}/"})
        try:
            match (request.method, _plain(path)):
                case ("POST", "/prompt"):
                    return await self._prompt(request, path, sender_of(request, client))
                case ("POST", "/interrupt"):
                    return await self._interrupt(request, path, sender_of(request, client))
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._socket(request, path, client)
            await _go_on(request)
            body = request.content.iter_any() if request.can_read_body else None
            return await self._pass(request, path, client, body)
        except Trouble as trouble:
            return refused(trouble)

    # a prompt

    async def _prompt(self, request: web.BaseRequest, path: str, sender: Sender) -> web.StreamResponse:
        """The body is read first: whoever leaves while it waits is noticed only then."""
        body = await read_body(request, self._body_bytes)
        if self.arbiter is None:
            return (await self._submit(request, path, sender, body))[0]
        place = await self.arbiter.enter(sender.key or sender.program or sender.address)
        accepted = True  # unless it is known that it was not: what it holds is seen in ComfyUI's queue
        try:
            answer, accepted = await self._submit(request, path, sender, body)
        except Trouble:
            accepted = False
            raise
        finally:
            self.arbiter.sent(place, accepted=accepted)
        return answer

    async def _submit(
        self, request: web.BaseRequest, path: str, sender: Sender, body: bytes
    ) -> tuple[web.StreamResponse, bool]:
        """ComfyUI's own answer, word for word, and whether it took the prompt."""
        try:
            async with self._asked(request, path, sender.key, body) as upstream:
                content, accepted = await upstream.read(), upstream.status == 200
                headers = to_client(upstream.headers)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self.comfyui.url, lost_words(error)) from error
        if accepted and (prompt_id := _field(content, "prompt_id")):
            self._senders.sent(prompt_id, sender)
        return web.Response(status=upstream.status, body=content, headers=headers), accepted

    # an interrupt

    async def _interrupt(self, request: web.BaseRequest, path: str, sender: Sender) -> web.StreamResponse:
        body = await read_body(request, self._body_bytes)
        if not _field(body, "prompt_id"):
            try:
                running = await self.comfyui.running()
            except ComfyError as error:
                raise unreachable(self.comfyui.url, error.words) from error
            if not running:
                return web.Response()
            if not all(self._senders.owns(prompt_id, sender) for prompt_id in running):
                raise _not_yours()
            body = msgspec.json.encode({"prompt_id": running[0]})
        return await self._pass(request, path, sender.key, body)

    # everything else

    async def _pass(
        self, request: web.BaseRequest, path: str, client: str, body: _Body
    ) -> web.StreamResponse:
        try:
            upstream = await self._asked(request, path, client, body)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self.comfyui.url, lost_words(error)) from error
        async with upstream:
            answer = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=to_client(upstream.headers)
            )
            await answer.prepare(request)
            try:
                async for piece in upstream.content.iter_any():
                    await answer.write(piece)
            except aiohttp.ClientError as error:  # the client must not take half a file for a whole one
                raise ConnectionResetError("ComfyUI's answer ended early") from error
            await answer.write_eof()
            return answer

    async def _socket(self, request: web.BaseRequest, path: str, client: str) -> web.StreamResponse:
        try:
            return await carry(self.comfyui.session, request, self._url(path), _headers(request, client))
        except aiohttp.WSServerHandshakeError as error:
            return web.Response(status=error.status)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self.comfyui.url, lost_words(error)) from error

    def _asked(self, request: web.BaseRequest, path: str, client: str, body: _Body) -> Any:
        headers = _headers(request, client)
        if isinstance(body, bytes):
            headers["Content-Length"] = str(len(body))
            headers.setdefault("Content-Type", "application/json")
        return self.comfyui.session.request(
            request.method,
            self._url(path),
            headers=headers,
            data=body,
            allow_redirects=False,
        )

    def _url(self, path: str) -> URL:
        return URL(f"{self.comfyui.url}{path}", encoded=True)


def _headers(request: web.BaseRequest, client: str) -> CIMultiDict[str]:
    return to_comfyui(request.headers, keyed=bool(client))


def _plain(path: str) -> str:
    """The route that ComfyUI takes it for: each is there plain and below ``/api``."""
    route = posixpath.normpath(unquote(path.partition("?")[0])).replace("//", "/")
    return route.removeprefix("/api") or "/"


def _field(body: bytes, name: str) -> str:
    """A text of a JSON object; "" where there is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


async def _go_on(request: web.BaseRequest) -> None:
    """A client that asks first whether its upload is wanted."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)


def _not_yours() -> Trouble:
    return Trouble(
        400,
        "interrupt_without_prompt",
        "This interrupt names no prompt, and what runs now is not this client's: nothing was stopped.",
        remedy='Send {"prompt_id": "…"} of the prompt to stop.',
    )
