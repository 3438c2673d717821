"""``OllamaView``: what an Ollama says of itself, kept as the bytes that came."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from narthex.gateway.body import UNREADABLE
from narthex.gateway.bounded import whole_of
from narthex.gateway.trouble import Trouble

LIMIT_S = 3.0  # its lists need no model; longer, it hangs
SHOW_LIMIT_S = 20.0  # reading the header of a large model from a slow disk


class _Ps(msgspec.Struct):
    models: tuple[msgspec.Raw, ...] | None = None


class _Named(msgspec.Struct):
    name: str


class _Version(msgspec.Struct):
    version: str = ""


class OllamaView:
    """One Ollama. Keeps what it said last when it is gone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.version = ""
        self.ps: tuple[msgspec.Raw, ...] = ()
        self.answers: bool | None = None  # None: not asked yet
        self._session: aiohttp.ClientSession | None = None

    async def look(self) -> bool:
        """What is loaded there and which version it is; whether it told."""
        try:
            ps, version = await asyncio.gather(self._get("/api/ps"), self._get("/api/version"))
            rows = msgspec.json.decode(ps, type=_Ps).models or ()
            for row in rows:
                msgspec.json.decode(row, type=_Named)  # whatever else answers there is no list of models
            self.ps = rows
            self.version = msgspec.json.decode(version, type=_Version).version
            self.answers = True
        except (TimeoutError, OSError, aiohttp.ClientError, *UNREADABLE):
            self.answers = False
        return self.answers

    async def show(self, body: bytes) -> tuple[int, bytes]:
        """Its answer to ``/api/show``: status and body. Raises Trouble where none comes."""
        try:
            async with self._client().post(
                f"{self.url}/api/show",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=SHOW_LIMIT_S),
                allow_redirects=False,
            ) as response:
                return response.status, await whole_of(response)
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise Trouble(
                502,
                "ollama_unreachable",
                f"Ollama at {self.url} does not answer ({type(error).__name__}).",
                remedy="Start it, or correct its address; «narthex doctor» finds out why.",
                retry_after_s=5,
            ) from error

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _get(self, path: str) -> bytes:
        async with self._client().get(
            f"{self.url}{path}", timeout=aiohttp.ClientTimeout(total=LIMIT_S), allow_redirects=False
        ) as response:
            response.raise_for_status()
            return await whole_of(response)

    def _client(self) -> aiohttp.ClientSession:
        """Made on first use, so that the loop is running; few connections, no cookies, no proxy."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=4),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session
