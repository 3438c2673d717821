"""``ComfyClient``: the one session to ComfyUI, for the proxy's requests and for our own questions.

ComfyUI has no login and refuses foreign origins, so our questions carry none. What is asked here changes
nobody's work: ``/free`` is acted on between two prompts, and nothing interrupts or clears.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec

from narthex.gateway.trouble import Trouble
from narthex.tenants.comfyui_api import ComfyApi, ComfyError, Stats, stats_from

ANSWER_S = 5.0  # a question of ours; while it loads a model ComfyUI may be silent for seconds


class ComfyClient:
    """One server. Questions raise ComfyError; TenantError for an address that makes no sense."""

    def __init__(self, url: str, *, connect_s: float = 5.0, answer_s: float = ANSWER_S) -> None:
        self.url = ComfyApi(url).url
        self._connect_s = connect_s
        self._limit = aiohttp.ClientTimeout(total=answer_s)
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Without cookies, proxies of the environment, and limits but that to connect: what it carries
        belongs to clients. Made at the first use, on the loop that runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()

    async def remaining(self) -> int:
        """Prompts that run or wait."""
        try:
            return int((await self._ask("GET", "/prompt"))["exec_info"]["queue_remaining"])
        except (KeyError, TypeError, ValueError) as error:
            raise ComfyError("what answers there is no ComfyUI") from error

    async def running(self) -> tuple[str, ...]:
        """Ids of the prompts that run now."""
        try:
            return tuple(str(row[1]) for row in (await self._ask("GET", "/queue"))["queue_running"])
        except (KeyError, TypeError, IndexError) as error:
            raise ComfyError("what answers there is no ComfyUI") from error

    async def stats(self) -> Stats:
        """Version and memory."""
        return stats_from(await self._ask("GET", "/system_stats"))

    async def free(self, *, forget: bool) -> None:
        """Let its models go once no prompt runs; with ``forget`` also out of main memory. The answer means
        only that the wish was heard."""
        await self._ask("POST", "/free", {"unload_models": True, "free_memory": forget})

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            async with self.session.request(
                method,
                self.url + path,
                data=content,
                headers=headers,
                timeout=self._limit,
                allow_redirects=False,
            ) as response:
                answer, status = await response.read(), response.status
        except TimeoutError as error:
            raise ComfyError(f"no answer within {self._limit.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ComfyError(lost_words(error), lost=True) from error
        if status != 200:
            raise ComfyError(f"HTTP {status}")
        try:
            return msgspec.json.decode(answer) if answer else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ComfyError("what answers there is no ComfyUI") from error


def lost_words(error: BaseException) -> str:
    """Why a connection was none."""
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing answers there"
    return "the connection ended early"


def unreachable(url: str, words: str) -> Trouble:
    """ComfyUI can't be asked."""
    return Trouble(
        502,
        "comfyui_unreachable",
        f"ComfyUI can't be asked at {url}: {words}.",
        remedy="Start it, or set its address: comfyui_url in [gateway] of narthex.toml.",
    )
