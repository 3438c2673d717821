"""``RequestLog``: a line of JSON for each request and each load, for `narthex replay`. No prompt is in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from narthex import paths
from narthex.gateway.watch.batches import Batches
from narthex.gateway.watch.record import Line
from narthex.units import format_count

NAME = "requests.jsonl"
SIZE = 32 << 20  # bytes of one file: some 100,000 requests
FILES = 4  # the newest of them is NAME, the older ones requests.1.jsonl …
PAUSE_S = 1.0


def folder() -> Path:
    """Where the log is, and nothing else."""
    return paths.state_dir() / "gateway"


def files(where: Path) -> list[Path]:
    """The log's files that are there, the oldest first."""
    known = [where / NAME, *(_older(where, number) for number in range(1, FILES))]
    return [path for path in reversed(known) if path.exists()]


class RequestLog:
    """One gateway's. ``say`` is told once when it can't be written, and once when it can again."""

    def __init__(
        self,
        where: Path,
        say: Callable[[str], None],
        *,
        size: int = SIZE,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.where, self._size = where, size
        self._batches: Batches[Line] = Batches(self._write, pause_s=pause_s, say=say)
        self._encode = msgspec.json.Encoder().encode_lines
        self._lost = 0  # lines since it can't be written

    def add(self, line: Line) -> None:
        """Put a line aside; it is on the disk within about a second."""
        self._batches.add(line)

    async def close(self) -> None:
        """Write what is left."""
        await self._batches.close()

    def _write(self, lines: list[Line], lost: int) -> str:
        """What there is to say about it."""
        try:
            self._append(self._encode(lines))
        except OSError as error:
            known, self._lost = self._lost, self._lost + len(lines) + lost
            return (
                ""
                if known
                else f"The request log {self.where / NAME} can't be written ({error.strerror or error}); "
                "requests go on without it."
            )
        missing, self._lost = self._lost + lost, 0
        return (
            f"The request log is written again; {format_count(missing, 'line')} went missing."
            if missing
            else ""
        )

    def _append(self, data: bytes) -> None:
        """Opened for each batch: another gateway may have turned the files over, or a person removed them."""
        self.where.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.where / NAME
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(data) > self._size:
                self._turn_over(path)
                os.close(descriptor)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                size = 0
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                if os.fstat(descriptor).st_size == size + len(data) - len(left):  # nobody else wrote
                    os.ftruncate(descriptor, size)  # else half a line would spoil the next one
                raise
        finally:
            os.close(descriptor)

    def _turn_over(self, path: Path) -> None:
        for number in range(FILES - 1, 1, -1):
            younger = _older(self.where, number - 1)
            if younger.exists():
                younger.replace(_older(self.where, number))
        path.replace(_older(self.where, 1))


def _older(where: Path, number: int) -> Path:
    return where / f"requests.{number}.jsonl"
