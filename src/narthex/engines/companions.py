"""Servers on this machine that an engine computes on, and what they say when it dies.

With ``--rpc HOST:PORT`` memory is allocated by a ``ggml-rpc-server``. When an allocation fails there, the
engine often sees no more than a closed connection and aborts; the line that proves the cause stands in the
server's own log. It is found where the server runs on this machine, as this user, with its output in a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from narthex.host.listeners import listeners

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_READ_LIMIT = 2**20


@dataclass(frozen=True)
class CompanionLog:
    """A server's log file, and how long it was when the engine started."""

    endpoint: str
    path: Path
    start: int

    def new_lines(self) -> list[str]:
        """What was written since then; the newest mebibyte of it."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self.start if self.start <= size else 0, size - _READ_LIMIT))
                text = file.read(_READ_LIMIT)
        except OSError:
            return []
        return text.decode("utf-8", "replace").splitlines()


def companion_logs(arguments: Sequence[str]) -> tuple[CompanionLog, ...]:
    """The logs of the RPC servers that these engine arguments name; empty where there are none to be read."""
    found: list[CompanionLog] = []
    for endpoint in endpoints(arguments):
        host, _, port = endpoint.rpartition(":")
        if host.strip("[]") in _LOOPBACK and port.isdecimal():
            paths = {path for pid in listeners(int(port)) for path in _outputs(pid)}
            found += [CompanionLog(endpoint, path, path.stat().st_size) for path in sorted(paths)]
    return tuple(found)


def endpoints(arguments: Sequence[str]) -> list[str]:
    """``HOST:PORT`` of every ``--rpc HOST:PORT,HOST:PORT`` and ``--rpc=…``."""
    values = [value for name, value in pairwise(arguments) if name == "--rpc"]
    values += [word.partition("=")[2] for word in arguments if word.startswith("--rpc=")]
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _outputs(pid: int) -> list[Path]:
    """The regular files that a process writes its output to."""
    links = [Path(f"/proc/{pid}/fd/{number}") for number in (1, 2)]
    try:
        return [Path(os.readlink(link)) for link in links if link.is_file()]
    except OSError:
        return []
