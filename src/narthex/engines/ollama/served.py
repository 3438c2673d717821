"""``ServedModel``: one model in one server. Is it loaded, by which process, and how is it let go?"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Sequence
from typing import Any

from narthex.engines.ollama import processes
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.log import RunnerCommand, is_start, last_load_command, runner_command
from narthex.engines.ollama.names import same, short
from narthex.engines.ollama.records import ApiError, Resident, Server
from narthex.engines.ollama.shown import shown_blob
from narthex.errors import UsageError
from narthex.host.gpu import VramReturn, open_nvml
from narthex.host.processes import command_line

POLL_S = 0.05
ASK_AGAIN_S = 5.0
PROCESS_S = 30.0  # for a process that Ollama no longer lists: it ends within a second, or still loads
LEAVE_S = 10.0  # where something went wrong or the user pressed Ctrl-C: nobody waits for a long answer
LOAD_S = 900.0  # longer than any load: leaving early would end it, and 40 GB from a slow disk take minutes
WAIT_S = 600.0  # an unload waits for the answers under way, and a long answer takes minutes


def _nothing() -> None:
    """Called between two looks when nobody wants to be told."""


class ServedModel:
    """A model by its name and, where it is known, its GGUF blob: Ollama keeps one runner a blob, whatever the
    names. The API may raise ApiError."""

    def __init__(self, server: Server, name: str, blob: str | None = None) -> None:
        """``blob``: 64 hex digits, a ``sha256:`` before them or not; without it Ollama is asked."""
        self.server = server
        self.name = name
        self.api = Api(server.url)
        self._asked = False
        self._blobs: dict[str, str | None] = {}  # of each resident, by its manifest's digest
        self._blob = blob.removeprefix("sha256:").removeprefix("sha256-") if blob else None

    @property
    def blob(self) -> str | None:
        """Digest of the GGUF file; None for a model without one, and where Ollama does not tell."""
        if self._blob is None and not self._asked:
            self._blob, self._asked = self._ask_blob(self.name), True
        return self._blob

    def loaded(self) -> tuple[Resident, ...]:
        """What Ollama lists over the same blob, under whatever name. Empty also while it still loads."""
        return tuple(resident for resident in self.api.ps() if self.is_same(resident))

    def is_same(self, resident: Resident) -> bool:
        """Whether that resident is this model, or another name over its blob."""
        if same(resident.name, self.name):
            return True
        if resident.digest not in self._blobs:
            self._blobs[resident.digest] = self._ask_blob(resident.name)
        other = self._blobs[resident.digest]
        return other is not None and other == self.blob

    def pid(self) -> int | None:
        """Of the process that computes for it; None where there is none or it can't be seen from here."""
        if self.server.place == "elsewhere" or not self.blob:
            return None
        return processes.runner_pid(self.blob, self.server.pid)

    def command(self, log: Sequence[str] = ()) -> RunnerCommand | None:
        """What its process was started with: by its command line in /proc, else by the last start of this
        blob in ``log``. From 0.11.5 to 0.24 the command line holds no options, only the log does."""
        pid = self.pid()
        words = command_line(pid) if pid is not None else []
        seen = runner_command(words) if words else None
        if seen is not None and seen.num_ctx is not None:
            return seen
        return self._logged(log) or seen

    def preload(self, options: dict[str, Any] | None, keep_alive: int | float | None) -> None:
        """Load it again for somebody, also one that only makes embeddings. Raises ApiError."""
        try:
            self.api.preload(self.name, options, keep_alive=keep_alive, timeout_s=LOAD_S, waiting=_nothing)
        except ApiError as error:
            if error.status != http.client.BAD_REQUEST or "does not support generate" not in error.text:
                raise
            body: dict[str, Any] = {"model": self.name, "input": ""}
            body |= {"options": options} if options else {}
            body |= {"keep_alive": keep_alive} if keep_alive is not None else {}
            try:
                with self.api.stream("/api/embed", body, timeout_s=LOAD_S, waiting=_nothing) as answers:
                    list(answers)
            except TimeoutError:
                raise ApiError(f"no answer within {LOAD_S:g} s") from None

    def unload(self, *, tick: Callable[[], None] = _nothing, wait_s: float = WAIT_S) -> bool:
        """Let it go and wait until Ollama no longer lists it and its process is gone.

        Ollama lets the answers under way end first. ``tick`` is called between two looks. False where it is
        still there after ``wait_s``.
        """
        now = time.monotonic()
        until, ask_at, gone_at = now + wait_s, now, None
        while (residents := self.loaded()) or self.pid() is not None:
            now = time.monotonic()
            gone_at = None if residents else gone_at or now
            if now >= until or (gone_at is not None and now >= gone_at + PROCESS_S):
                return False
            if residents and now >= ask_at:  # again at times: another client may have loaded it anew
                ask_at = now + ASK_AGAIN_S
                for name in {resident.name for resident in residents}:
                    self.api.unload(name)
            tick()
            time.sleep(POLL_S)
        return True

    def memory(self, expected_bytes: int) -> VramReturn | None:
        """Made before an unload, it tells afterwards whether the GPU memory came back; None elsewhere."""
        if self.server.place == "elsewhere":
            return None
        return VramReturn(self.pid(), expected_bytes, open_nvml()[0])

    def _logged(self, log: Sequence[str]) -> RunnerCommand | None:
        end = len(log)
        for index in reversed(range(len(log))):
            if is_start(log[index]):
                if self.blob and self.blob in log[index]:
                    return last_load_command(log[index:end])
                end = index
        return None

    def _ask_blob(self, name: str) -> str | None:
        with contextlib.suppress(ApiError):
            return shown_blob(self.api.show(name))
        return None


def processor(resident: Resident) -> str | None:
    """Where a loaded model lies, in the words of ``ollama ps``: «100% GPU», «23%/77% CPU/GPU».

    Placement, not proof: from 0.30.0 on it comes from log lines, before from an estimate. None where Ollama
    says what can't be.
    """
    size, gpu = resident.size, resident.size_vram
    if gpu is None or size <= 0 or gpu > size:
        return None
    if gpu in (0, size):
        return "100% GPU" if gpu else "100% CPU"
    cpu = round(100 * (size - gpu) / size)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def spoken(name: str) -> str:
    """A model's name as people know it."""
    try:
        return short(name)
    except UsageError:
        return name
