"""``Preload``: one load in an Ollama over one patient connection, watched so that a stall is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from narthex.engines.ollama.logs import FileLog
from narthex.engines.ollama.records import ApiError, Resident
from narthex.gateway.hands._base import Progress, Told
from narthex.gateway.hands.ollama_api import unreachable
from narthex.gateway.hands.ollama_progress import LoadWatch
from narthex.gateway.hands.ollama_site import OllamaSite
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration

LOOK_S = 1.0
_QUEUE_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between the tries while Ollama's queue is full
_CANNOT = ("does not support generate", "does not support chat")


class Preload:
    """``told`` may grow while it runs. ``stall_s`` without progress fails it; where nothing of the server can
    be seen ``blind_s`` does. ``keep_alive`` in seconds, negative for ever."""

    def __init__(
        self,
        site: OllamaSite,
        offer: Offer,
        told: list[Told],
        *,
        keep_alive: float,
        limits_s: tuple[float, float],
    ) -> None:
        self._site, self._offer, self._told = site, offer, told
        self._keep_alive = -1 if keep_alive < 0 else keep_alive
        self._stall_s, self._blind_s = limits_s

    async def run(self, blob: str | None) -> None:
        """Returns once Ollama says that it is loaded. Raises ApiError, and Trouble where it stands still."""
        log = self._site.log
        log = log if isinstance(log, FileLog) else None  # of others each look would start a program
        watch = LoadWatch(self._site.server, blob, log)
        post = asyncio.create_task(self._ask())
        guard = asyncio.create_task(self._stalled(watch))
        try:
            await asyncio.wait({post, guard}, return_when=asyncio.FIRST_COMPLETED)
            if not post.done():
                raise guard.result()
            post.result()
        finally:
            for task in (post, guard):
                task.cancel()
            await asyncio.gather(post, guard, return_exceptions=True)

    async def _ask(self) -> None:
        """Asks again while Ollama's queue is full."""
        pauses = iter(_QUEUE_PAUSES_S)
        abilities = self._offer.capabilities
        embeds = "embedding" in abilities and "completion" not in abilities
        while True:
            path, body = self._question(embeds=embeds)
            try:
                return await self._site.api.ask(path, body)
            except ApiError as error:
                if error.status == 400 and not embeds and any(words in error.text for words in _CANNOT):
                    embeds = True
                elif error.status == 503 and (pause := next(pauses, None)) is not None:
                    await asyncio.sleep(pause)
                else:
                    raise

    def _question(self, *, embeds: bool) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self._offer.model, "keep_alive": self._keep_alive}
        if self._offer.options:
            body["options"] = self._offer.options
        # A model that only embeds can't be asked to generate; nothing to embed loads it just so.
        return ("/api/embed", body | {"input": ""}) if embeds else ("/api/generate", body | {"stream": False})

    async def _stalled(self, watch: LoadWatch) -> Trouble:
        """Returns once the load stands still; else it goes on for ever."""
        limit_s = self._blind_s if watch.blind else self._stall_s
        residents: Sequence[Resident] | None
        while True:
            try:
                residents = await self._site.api.ps()
            except ApiError:
                residents = None
            silent_s = await asyncio.to_thread(watch.look, residents)
            if silent_s > limit_s:
                return await self._wedged(watch, silent_s)
            stage = "waiting for Ollama" if self._site.here and watch.waits_behind else "loading"
            for told in self._told:
                told(Progress(stage=stage))
            await asyncio.sleep(min(LOOK_S, limit_s / 4))

    async def _wedged(self, watch: LoadWatch, silent_s: float) -> Trouble:
        api = self._site.api
        try:
            version = await api.version()
        except ApiError as error:
            return unreachable(api.url, error.text)
        what = "nothing came of it"
        if watch.pid is not None:
            what = f"its runner (process {watch.pid}) did nothing"
        elif self._site.here:
            what = "no runner was started for it"
        return Trouble(
            504,
            "model_load_hangs",
            f"Ollama {version} at {api.url} answers its lists, but the load of «{self._offer.name}» hangs: "
            f"{what} for {format_duration(silent_s)}.",
            remedy=f"Its load path is wedged: restart it, {self._site.restart()}.",
            lasting=True,
            figures={"silent_s": round(silent_s, 1)},
        )
