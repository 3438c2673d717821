"""``Serving``: what every handler needs: the store, the scheduler, and the way from a body to a runner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from narthex.testing.ollama import names
from narthex.testing.ollama.gguf_info import BadModel, ModelFile, read_model
from narthex.testing.ollama.options import Wanted, WrongOption, read_options
from narthex.testing.ollama.pending import Busy, Request
from narthex.testing.ollama.runner import LoadFailed, Runner
from narthex.testing.ollama.scheduler import Scheduler
from narthex.testing.ollama.store import BadManifest, Store, Stored
from narthex.testing.ollama.wire import Refused

_BUSY = "server busy, please try again.  maximum pending requests exceeded"


class Serving:
    """The server behind its routes."""

    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self.store, self.scheduler = store, scheduler
        self.settings, self.words = scheduler.settings, scheduler.words
        self.manner, self.log = scheduler.manner, scheduler.log
        self._shown: dict[str, ModelFile] = {}  # by manifest digest: show answers from here

    def stored(self, text: str, missing: str = "model '{}' not found") -> Stored:
        """By the name in a request. Raises Refused."""
        name = names.parse(text) if text else None
        if text and name is None:
            raise Refused(400, "invalid model name")
        try:
            found = self.store.find(name)
        except BadManifest as error:
            self.log.warn("bad manifest", name=name.full if name else "", error=error)
            raise Refused(500, str(error)) from None
        if found is None:
            raise Refused(404, missing.format(text))
        return found

    def model_file(
        self, stored: Stored, missing: str = 'model "{}" not found, try pulling it first'
    ) -> ModelFile:
        """The GGUF file of a stored model, as it is now. Raises Refused."""
        blob = stored.layer("model")
        try:
            if blob is None:
                raise FileNotFoundError
            return read_model(blob)
        except FileNotFoundError:
            words = f"stat {blob}: no such file or directory"
            self.log.info("failed to load model metadata", model=blob, error=words)
            raise Refused(404, missing.format(stored.name.short.removesuffix(":latest"))) from None
        except BadModel as error:
            self.log.info("failed to load model metadata", model=blob, error=error)
            raise Refused(500, str(error)) from None

    def shown_file(self, stored: Stored) -> ModelFile:
        """The same as first read: show and tags answer from a cache."""
        if stored.digest not in self._shown:
            model = self._shown[stored.digest] = self.model_file(stored)
            bare = not model.chat_template and not stored.layer_digest("template")
            if bare and self.manner.era == "F":
                words = "model is missing tokenizer.chat_template and Go TEMPLATE support is unavailable; "
                words += "chat responses may be poorly formatted"
                self.log.warn(words, model=stored.name.full, env="OLLAMA_GO_TEMPLATE=1")
        return self._shown[stored.digest]

    def check_capabilities(self, stored: Stored, body: Mapping[str, Any], *, chat: bool) -> None:
        """Raises Refused(400) for what this model can't do."""
        able = self.shown_file(stored).capabilities
        short = str(body.get("model", ""))
        if "completion" not in able:
            raise Refused(400, f'"{short}" does not support {"chat" if chat else "generate"}')
        if body.get("tools") and "tools" not in able:
            raise Refused(400, f"{stored.name.full} does not support tools")
        if body.get("suffix"):
            raise Refused(400, f"{stored.name.full} does not support insert")
        if body.get("think") and "thinking" not in able:
            raise Refused(400, f'"{short}" does not support thinking')

    @contextlib.asynccontextmanager
    async def runner(
        self, stored: Stored, body: Mapping[str, Any], keep_alive: int | None
    ) -> AsyncIterator[Runner]:
        """A runner that fits the request, held for its time. Raises Refused."""
        wanted = self.wanted(stored, body)
        model = self.model_file(stored)
        template = bool(stored.layer_digest("template"))
        request = Request(stored, model, wanted, keep_alive, template)
        try:
            runner = await self.scheduler.acquire(request)
        except Busy:
            raise Refused(503, _BUSY) from None
        except LoadFailed as failed:
            raise Refused(500, str(failed)) from None
        try:
            yield runner
        finally:
            self.scheduler.release(runner)

    def wanted(self, stored: Stored, body: Mapping[str, Any]) -> Wanted:
        """The effective options. Raises Refused(500) for a wrong type."""
        try:
            wanted = read_options(
                stored.params,
                body.get("options") or {},
                env_ctx=self.settings.context_length,
                tier_ctx=self.scheduler.default_ctx,
                log=self.log,
            )
        except WrongOption as error:
            raise Refused(500, str(error)) from None
        return replace(wanted, shift=body.get("shift") is not False)
