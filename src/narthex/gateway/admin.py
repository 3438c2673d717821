"""``Admin``: Ollama's administrative paths, which change what is stored. Off unless the policy says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import web

from narthex.gateway.relay.headers import to_client, to_engine
from narthex.gateway.trouble import Trouble
from narthex.policy.records import GatewayPolicy

Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]
PATHS = (
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("HEAD", "/api/blobs/"),
    ("POST", "/api/blobs/"),
)


class Admin:
    """``policy`` and ``ollama`` are asked at each request: a reload counts at once."""

    def __init__(self, policy: Callable[[], GatewayPolicy], ollama: Callable[[], str | None]) -> None:
        self._policy, self._ollama = policy, ollama
        self._session: aiohttp.ClientSession | None = None

    def routes(self) -> dict[tuple[str, str], Handler]:
        """(method, path) → handler."""
        return dict.fromkeys(PATHS, self._pass)

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _pass(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        """To Ollama and back as it comes; a download takes as long as it takes."""
        path = request.rel_url.raw_path
        if not self._policy().admin:
            raise Trouble(
                403,
                "admin_off",
                f"{path} changes what Ollama has stored, and that is not allowed here.",
                remedy="Use Ollama's own address, or set admin = true in [gateway] of narthex.toml.",
            )
        url = self._ollama()
        if url is None:
            raise Trouble(
                503, "ollama_unreachable", "There is no Ollama behind this gateway.", retry_after_s=10
            )
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._policy().connect),
                trust_env=False,
            )
        headers = {**to_engine(request.headers)}
        if kind := request.headers.get("Content-Type"):
            headers["Content-Type"] = kind
        try:
            async with self._session.request(
                request.method, url + path, data=_body(request), headers=headers, allow_redirects=False
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=to_client(answer.headers))
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError as error:
            raise Trouble(
                503,
                "ollama_unreachable",
                f"Ollama at {url} does not answer.",
                remedy="Start it; «narthex doctor» finds out why it is down.",
                retry_after_s=10,
            ) from error


def _body(request: web.BaseRequest) -> AsyncIterator[bytes] | None:
    return request.content.iter_any() if request.can_read_body else None
