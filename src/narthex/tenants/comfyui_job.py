"""One prompt of ours in a ComfyUI, from the queue to its end."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from narthex.tenants._base import JobEnd
from narthex.tenants.comfyui_api import ComfyApi, ComfyError

PATIENCE_S = 600.0  # for the end of our own job when it is left
SILENCE_S = 60.0  # a ComfyUI that loads a large model answers late
POLL_S = 0.25
_CACHED = "ComfyUI answered from its cache, nothing was computed: the workflow has no seed to change"


class ComfyJob:
    """A prompt that was submitted. It is never interrupted: an older ComfyUI would stop whatever runs."""

    def __init__(self, api: ComfyApi, prompt_id: str, patience_s: float = PATIENCE_S) -> None:
        self.prompt_id = prompt_id
        self._api = api
        self._patience_s = patience_s
        self._begun = False
        self._end: JobEnd | None = None
        self._heard_at = time.monotonic()

    def begun(self) -> bool:
        """Whether ComfyUI works on it. Once it does, the queue, which carries whole graphs, is left alone."""
        if not self._begun:
            with suppress(ComfyError):
                self._begun = self.prompt_id in self._api.queue()[0]
        return self._begun

    def waiting(self) -> int:
        """Prompts of others before it, the running one counted; 0 once it runs."""
        if self.begun():
            return 0
        with suppress(ComfyError):
            running, waiting = self._api.queue()
            return len(running) + len(waiting - {self.prompt_id})
        return 0

    def poll(self) -> JobEnd | None:
        """From the history; what ComfyUI has lost, or a ComfyUI that is gone, ends it too."""
        if self._end is None:
            try:
                self._end = self._look()
                self._heard_at = time.monotonic()
            except ComfyError as error:
                if error.lost or time.monotonic() - self._heard_at > SILENCE_S:
                    gone = f"ComfyUI is gone: {error.words}"
                    self._end = JobEnd(words=gone, lasting=True, ran=self._begun)
        return self._end

    def leave(self, wait: bool = True) -> None:
        """Out of the queue where it still waits, else wait for its end; then out of the history."""
        with suppress(ComfyError):
            if self._end is None:
                self._api.withdraw(self.prompt_id)
            until = time.monotonic() + (self._patience_s if wait else 0.0)
            while self.poll() is None and time.monotonic() < until:
                time.sleep(POLL_S)
            self._api.forget(self.prompt_id)

    def _look(self) -> JobEnd | None:
        entry = self._api.finished(self.prompt_id)
        if entry is None and self.prompt_id not in frozenset().union(*self._api.queue()):
            # It may have ended between the two questions.
            entry = self._api.finished(self.prompt_id)
            if entry is None:
                words = "ComfyUI does not know the job any more: someone cleared its lists"
                return JobEnd(words=words, ran=self._begun)
        return None if entry is None else end_of(entry)


def end_of(entry: dict[str, Any]) -> JobEnd:
    """How a prompt ended, by its history entry."""
    status = entry.get("status") or {}
    told = {
        row[0]: row[1]
        for row in status.get("messages") or []
        if isinstance(row, list) and len(row) == 2 and isinstance(row[1], dict)
    }
    if status.get("status_str") == "success":
        cached = _only_cached(entry, told)
        return JobEnd(words=_CACHED, lasting=True, ran=False) if cached else JobEnd()
    if error := told.get("execution_error"):
        first = str(error.get("exception_message", "")).strip().partition("\n")[0]
        return JobEnd(words=f"{error.get('node_type', 'a node')} (node {error.get('node_id')}): {first}")
    if "execution_interrupted" in told:
        return JobEnd(words="someone interrupted it in ComfyUI")
    return JobEnd(words="ComfyUI says that it failed, without a reason")


def _only_cached(entry: dict[str, Any], told: dict[str, Any]) -> bool:
    """Whether nothing but outputs was computed. A prompt is [number, id, graph, extra data, output ids]."""
    prompt = entry.get("prompt")
    if not isinstance(prompt, list) or len(prompt) < 5:
        return False
    cached = set(map(str, told.get("execution_cached", {}).get("nodes") or ()))
    work = set(map(str, prompt[2])) - set(map(str, prompt[4]))
    return bool(cached) and work <= cached
