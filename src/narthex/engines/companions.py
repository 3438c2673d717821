"""Servers on this machine that an engine computes on, and what they say when it dies.

With ``--rpc HOST:PORT`` memory is allocated by a ``ggml-rpc-server``. When an allocation fails there, the
engine often sees no more than a closed connection and aborts; the line that proves the cause stands in the
server's own log. It is found where the server runs on this machine, as this user, with its output in a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_LISTEN = "0A"
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


def listeners(port: int) -> set[int]:
    """Processes that listen on a TCP port and may be looked at by this user."""
    sockets = _listening(port)
    if not sockets:
        return set()
    return {
        int(folder.name) for folder in Path("/proc").glob("[0-9]*") if sockets & set(_links(folder / "fd"))
    }


def is_rival(port: int, pids: Iterable[int]) -> bool:
    """Whether somebody listens on a TCP port and none of these processes does. Quick: looks only at them."""
    sockets = _listening(port)
    return bool(sockets) and not any(sockets & set(_links(Path(f"/proc/{pid}/fd"))) for pid in pids)


def _listening(port: int) -> set[str]:
    """The sockets that listen on a TCP port, by their names in /proc/PID/fd."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (row.split() for row in rows):
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _outputs(pid: int) -> list[Path]:
    """The regular files that a process writes its output to."""
    links = [Path(f"/proc/{pid}/fd/{number}") for number in (1, 2)]
    try:
        return [Path(os.readlink(link)) for link in links if link.is_file()]
    except OSError:
        return []


def _links(folder: Path) -> list[str]:
    """What a process holds open. One that is closed while we look is left out, not the rest with it."""
    try:
        names = list(folder.iterdir())
    except OSError:
        return []
    found = []
    for link in names:
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return found
