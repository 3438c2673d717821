"""``OllamaSite``: one Ollama as it can be seen from here: its process, its runners, its models' blobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from narthex.engines.ollama import processes
from narthex.engines.ollama.discovery import look_again
from narthex.engines.ollama.logs import LogSource, open_log
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.shown import shown_blob
from narthex.gateway.hands.ollama_api import OllamaApi
from narthex.gateway.hands.ollama_residents import is_named
from narthex.gateway.offer import Offer
from narthex.host.processes import runs

_ANEW_S = 5.0  # between two tries to find a server again that was started anew


class OllamaSite:
    """``server`` is what was found out of it, None where nothing was; ``log`` where it writes."""

    def __init__(self, api: OllamaApi, server: Server | None, log: LogSource | None) -> None:
        self.api, self.server, self.log = api, server, log
        self._blobs: dict[str, str | None] = {}  # by what was asked for: digest of the GGUF file
        self._runners: dict[str, int] = {}  # by the offer's key: the process that computes
        self._tried_at = -_ANEW_S

    @property
    def here(self) -> bool:
        """Whether the server computes on this machine, as far as that is known."""
        return self.server is not None and self.server.place != "elsewhere"

    def restart(self) -> str:
        """The command that starts it anew."""
        server = self.server
        if server is not None and server.container is not None:
            return f"docker restart {server.container.name}"
        if server is not None and server.unit:
            return f"sudo systemctl restart {server.unit}"
        return "sudo systemctl restart ollama (in a container: docker restart NAME)"

    async def refresh(self) -> None:
        """After somebody started the server anew: its process, and maybe its log, are others now."""
        server, now = self.server, time.monotonic()
        if server is None or server.pid is None or runs(server.pid) or now - self._tried_at < _ANEW_S:
            return
        self._tried_at = now
        try:
            found = await asyncio.to_thread(look_again, server)
        except ApiError:
            return  # it is still down
        self._runners.clear()
        self._blobs.clear()
        if found.log != server.log:
            self.log = await asyncio.to_thread(open_log, found)
        self.server = found

    async def find(self, residents: Sequence[Resident], offer: Offer, name: str = "") -> Resident | None:
        """The resident that serves it: by its name, else by its blob, which another name may share. Raises
        ApiError."""
        for resident in residents:
            if is_named(resident, offer) or resident.name == name:
                return resident
        blob = await self.blob(offer.model) if residents else None
        for resident in residents if blob else ():
            if await self.blob(resident.name) == blob:
                return resident
        return None

    async def blob(self, name: str) -> str | None:
        """Digest of the GGUF file; None where Ollama does not tell. Raises ApiError for a name that it does
        not know, and where it does not answer."""
        if name not in self._blobs:
            try:
                self._blobs[name] = shown_blob(await self.api.show(name))
            except ApiError as error:
                if error.lost or error.status in (None, 404):
                    raise
                return None
        return self._blobs[name]

    async def runner(self, key: str, name: str) -> int | None:
        """The process that computes for an offer which is listed by that name, dead or alive; None where it
        can't be seen."""
        if not self.here:
            return None
        known = self._runners.get(key)
        if known is not None and runs(known):
            return known
        try:
            blob = await self.blob(name)
        except ApiError:
            return None
        pid = await asyncio.to_thread(self._search, blob)
        if pid is not None:  # one process serves one offer, whatever it was taken for before
            self._runners = {one: other for one, other in self._runners.items() if other != pid} | {key: pid}
        return pid or known

    def runners(self) -> dict[str, int]:
        """Those that were seen, by the offer's key, dead or alive."""
        return dict(self._runners)

    def forget(self, key: str) -> int | None:
        """An offer that is let go: its process."""
        return self._runners.pop(key, None)

    def _search(self, blob: str | None) -> int | None:
        if not blob or self.server is None:
            return None
        return processes.runner_pid(blob, self.server.pid)
