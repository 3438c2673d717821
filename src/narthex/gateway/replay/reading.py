"""Reads request logs. A line that makes no sense, as the last one after a power cut, is counted and left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from narthex.errors import UsageError
from narthex.gateway.watch.record import Line, LoadRecord, RequestRecord, StartRecord, UnloadRecord
from narthex.gateway.watch.request_log import files, folder

LONGEST = 1 << 20  # bytes of one line; ours have some hundred
_WAY = "Give a request log of narthex serve, or none: then it is your own."

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


@dataclass(slots=True)
class Log:
    """What stands in it, each kind in time order. ``bad``: lines that could not be read."""

    requests: list[RequestRecord] = field(default_factory=list)
    loads: list[LoadRecord] = field(default_factory=list)
    unloads: list[UnloadRecord] = field(default_factory=list)
    starts: list[StartRecord] = field(default_factory=list)
    bad: int = 0

    @property
    def span_s(self) -> float:
        """From the first request to the last one."""
        return self.requests[-1].at - self.requests[0].at if self.requests else 0.0


def read_log(where: Path | None = None) -> Log:
    """A log file, the files of a folder, or (None) the user's own. Raises UsageError."""
    log = Log()
    paths = _paths(where)
    empty = True
    for path in paths:
        try:
            with path.open("rb") as file:
                for line in iter(lambda: file.readline(LONGEST), b""):
                    empty = False
                    _take(log, line)
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror or error}.", hint=_WAY) from error
    spoken = str(where or folder())
    if empty:
        raise UsageError(f"{spoken} is empty: no request was written down.", hint=_WAY)
    if not log.requests:
        raise UsageError(f"{spoken} holds no line of a request log of narthex.", hint=_WAY)
    for rows in (log.requests, log.loads, log.unloads, log.starts):
        rows.sort(key=lambda row: row.at)
    return log


def _paths(where: Path | None) -> Iterable[Path]:
    chosen = where if where is not None else folder()
    if not chosen.is_dir():
        if where is None:
            raise UsageError(
                f"There is no request log yet at {chosen}.",
                hint="«narthex serve» writes one, unless log = false.",
            )
        return [chosen]
    found = files(chosen)
    if not found:
        raise UsageError(f"There is no request log in {chosen}.", hint=_WAY)
    return found


def _take(log: Log, line: bytes) -> None:
    if not line.strip():
        return
    try:
        record = _decoder.decode(line)
    except msgspec.MsgspecError:
        log.bad += 1
        return
    match record:
        case RequestRecord():
            log.requests.append(record)
        case LoadRecord():
            log.loads.append(record)
        case UnloadRecord():
            log.unloads.append(record)
        case StartRecord():
            log.starts.append(record)
