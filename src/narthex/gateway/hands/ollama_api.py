"""``OllamaApi``: an Ollama's HTTP API, asked without blocking, as far as the gateway's hand needs it."""

from __future__ import annotations

from typing import Any, TypeVar

import aiohttp
import msgspec

from narthex.engines.ollama.records import ApiError, Resident, Show, Tag
from narthex.gateway.body import UNREADABLE
from narthex.gateway.bounded import whole_of
from narthex.gateway.trouble import Trouble

_T = TypeVar("_T")
ASK_S = 5.0  # for what an Ollama answers at once: its version, its lists
_AGAIN_S = 5.0


class _Residents(msgspec.Struct):
    models: tuple[Resident, ...] | None = None


class _Tags(msgspec.Struct):
    models: tuple[Tag, ...] | None = None


class _Version(msgspec.Struct):
    version: str = ""


class OllamaApi:
    """Patient connections of its own: no redirects, no cookies, no proxy of the environment.

    The methods raise ApiError; its ``lost`` says that the connection was refused or ended early. Without a
    status and not lost the answer took too long.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def version(self) -> str:
        """Raises ApiError where the server does not answer within five seconds."""
        return _decoded(await self._read("GET", "/api/version", None, ASK_S), _Version).version

    async def ps(self) -> tuple[Resident, ...]:
        """What is loaded. One that is loading is not listed; one whose process died still is."""
        return _decoded(await self._read("GET", "/api/ps", None, ASK_S), _Residents).models or ()

    async def tags(self) -> tuple[Tag, ...]:
        """What is stored."""
        return _decoded(await self._read("GET", "/api/tags", None, ASK_S), _Tags).models or ()

    async def show(self, model: str) -> Show:
        """One model, without its arrays."""
        return _decoded(await self._read("POST", "/api/show", {"model": model, "name": model}, ASK_S), Show)

    async def ask(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> None:
        """A POST whose answer only has to be a good one. None: it may take as long as it takes."""
        await self._read("POST", path, body, timeout_s)

    async def close(self) -> None:
        """Close its connections: a load under way ends with its own."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _read(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float | None
    ) -> bytes:
        data = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data is not None else {}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=ASK_S)
        try:
            async with self._opened().request(
                method, self.url + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                content = await whole_of(answer)
                status = answer.status
        except aiohttp.ClientConnectorError as error:
            raise ApiError(_connect_words(error), lost=True) from error
        except TimeoutError as error:  # also one of aiohttp's own, which is a ClientError as well
            raise ApiError("it does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError("the connection broke off", lost=True) from error
        if status >= 300:
            raise ApiError(error_words(content) or f"it answers {status}", status=status)
        return content

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Each question has a connection of its own: a kept one may be closed in the moment of its use,
            # and a load that broke off would begin again.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, trust_env=False)
        return self._session


def unreachable(url: str, words: str) -> Trouble:
    """The server does not answer."""
    return Trouble(
        503,
        "ollama_unreachable",
        f"Ollama at {url} does not answer: {words}.",
        remedy="Start it (sudo systemctl start ollama, or docker start ollama), or name its address: "
        "narthex serve --ollama URL.",
        retry_after_s=_AGAIN_S,
    )


def error_words(content: bytes) -> str:
    """What an answer's «error» says; of another body its beginning."""
    try:
        found = msgspec.json.decode(content)
    except UNREADABLE:
        return content[:500].decode("utf-8", "replace").strip()
    said = found.get("error") if isinstance(found, dict) else None
    if isinstance(said, dict):
        said = said.get("message")
    return str(said) if said else content[:500].decode("utf-8", "replace").strip()


def _decoded(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except UNREADABLE as error:
        raise ApiError("its answer can't be read", status=200) from error


def _connect_words(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error.os_error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error.os_error, TimeoutError):
        return "nothing answers there"
    return error.os_error.strerror or str(error.os_error)
