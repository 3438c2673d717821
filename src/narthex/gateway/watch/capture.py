"""``Capture``: whole requests and answers in a folder, for who looks for a fault. They are transcripts: off
by default, for their owner alone, and the oldest go first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from narthex.errors import UsageError
from narthex.gateway.watch.batches import Batches

KEPT = 1000  # requests in the folder
ANSWER = 8 << 20  # bytes of one answer that are kept
PAUSE_S = 0.5


class Captured:
    """One request on its way. Feed it what goes to the client; :meth:`end` puts it on the disk."""

    __slots__ = ("_capture", "answer", "body", "id")

    def __init__(self, capture: Capture, identifier: str, body: bytes) -> None:
        self._capture, self.id, self.body = capture, identifier, body
        self.answer = bytearray()

    def feed(self, data: bytes) -> None:
        """A piece of the answer."""
        if len(self.answer) < ANSWER:
            self.answer += data

    def end(self) -> None:
        """The answer is over."""
        self._capture.put(self)


class Capture:
    """A folder of 0700 with two files of 0600 for each request: ``ID.request`` and ``ID.answer``, the bytes
    that came and went; no header is in them, so no key. ``say`` is told once when it can't be written. Raises
    UsageError for a folder that can't be."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, kept: int = KEPT) -> None:
        try:
            self.folder = folder.expanduser()
        except RuntimeError as error:
            raise UsageError(
                f"capture in [gateway]: «{folder}» is no folder: {error}", hint="Write a whole path."
            ) from error
        self._kept = kept
        self._batches: Batches[Captured] = Batches(self._write, pause_s=PAUSE_S, say=say, most=kept)
        self._refused = False

    def begin(self, identifier: str, body: bytes) -> Captured:
        """A request came."""
        return Captured(self, identifier, body)

    def put(self, captured: Captured) -> None:
        """It is over."""
        self._batches.add(captured)

    async def close(self) -> None:
        """Write what is left."""
        await self._batches.close()

    def _write(self, batch: list[Captured], lost: int) -> str:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            for one in batch:
                _private(self.folder / f"{one.id}.request", one.body)
                _private(self.folder / f"{one.id}.answer", bytes(one.answer))
            self._prune()
        except (OSError, ValueError) as error:
            known, self._refused = self._refused, True
            words = (error.strerror if isinstance(error, OSError) else None) or error
            return "" if known else f"{self.folder}: requests can't be kept there ({words})."
        self._refused = False
        return ""

    def _prune(self) -> None:
        """Only what has our endings; the folder may hold a person's own files."""
        rows = [path for path in self.folder.iterdir() if path.suffix in {".request", ".answer"}]
        if len(rows) > 2 * self._kept:
            rows.sort(key=lambda path: path.stat().st_mtime)
            for path in rows[: len(rows) - 2 * self._kept]:
                path.unlink(missing_ok=True)


def _private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
