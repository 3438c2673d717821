"""What was loaded before narthex came, on paper: a note in the state folder, and one narthex a server.

The note is written before anything is unloaded and goes away once everything is back, so what a SIGKILL left
behind is put back by the next run. The lock is the kernel's: it ends with its holder, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from narthex import paths
from narthex.engines.ollama.address import Address, parse_host
from narthex.engines.ollama.records import Server
from narthex.errors import EngineError
from narthex.flock import Holder, flock, held_by, holder_of, sign

_TRIES = 5  # to get the lock: somebody who only looks whether it is free holds it for a moment
_BETWEEN_S = 0.02


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model as it was found."""

    name: str
    forever: bool = False
    seconds_left: float | None = None  # of its keep-alive when the note was written; None: unknown
    context_length: int | None = None  # of one slot
    options: dict[str, Any] = {}  # what its runner was started with, as far as a command line told
    failed: int = 0  # times that it could not be put back
    runner: int | None = None  # the process that computed for it; None where it can't be seen


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """A model that narthex itself loaded."""

    name: str
    at: float  # seconds since the epoch, when it was last loaded
    server: int | None = None  # the server's process then; None where it can't be seen


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One server's loaded models in the order in which Ollama listed them, and what narthex loads there."""

    url: str
    pid: int  # of the narthex that wrote it
    at: float  # seconds since the epoch; what is left of the models' stays counts from here
    formers: tuple[Former, ...] = ()
    ours: tuple[Ours, ...] = ()  # models that narthex loaded: they are not put back


def read_note(url: str) -> Note | None:
    """The note about this server; None where there is none or it can't be understood."""
    try:
        return msgspec.json.decode(_path(url, "json").read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return None


def write_note(note: Note) -> None:
    """Whole or not at all, also when the machine stops. Raises EngineError where it can't be written: then
    nothing may be unloaded."""
    path = _path(note.url, "json")
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(msgspec.json.encode(note))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def drop_note(url: str) -> None:
    """Everything is back."""
    _path(url, "json").unlink(missing_ok=True)


def add_ours(url: str, model: str, server: int | None = None) -> None:
    """Remember that narthex itself loads this model now; without a note there is nothing to tell apart.

    ``server``: its process, where that can be seen."""
    note = read_note(url)
    if note is not None:
        others = (one for one in note.ours if one.name != model)
        mine = Ours(name=model, at=time.time(), server=server)
        write_note(msgspec.structs.replace(note, ours=(*others, mine)))


@contextlib.contextmanager
def only_one(server: Server) -> Iterator[None]:
    """Hold this server for one narthex. Raises EngineError where another one has it, and says which."""
    path = _lock(parse_host(server.url), server.container.name if server.container else None)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        if not _locked(descriptor, _TRIES):
            who, hint = held_by(holder_of(descriptor))
            words = f"Another narthex is already working with the Ollama at {server.url}: {who}."
            raise EngineError(words, hint=hint)
        sign(descriptor)
        yield
    finally:
        os.close(descriptor)  # the file stays: were it deleted, two could lock two files of one name


def holder(address: Address, container: str | None) -> Holder | None:
    """Who works with the server at that address, or in the container of that name; None where nobody does."""
    try:
        descriptor = os.open(_lock(address, container), os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _locked(descriptor, 1) else holder_of(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _locked(descriptor: int, tries: int) -> bool:
    for left in reversed(range(tries)):
        try:
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(_BETWEEN_S)
        else:
            return True
    return False


def _lock(address: Address, container: str | None) -> Path:
    """One server, one lock, by whatever address it is asked. A twin has the name of the user's container."""
    if container is not None:
        return _file(f"container-{container}.lock")
    here = _is_loopback(address.host) or address.here() is not None
    return _file(f"{'localhost' if here else address.host}_{address.port}.lock")


def _path(url: str, suffix: str) -> Path:
    """By the address, which outlives a restart of the server. All names of the loopback are one."""
    address = parse_host(url)
    host = "localhost" if _is_loopback(address.host) else address.host
    return _file(f"{host}_{address.port}{address.path}.{suffix}")


def _file(name: str) -> Path:
    return paths.state_dir() / "ollama" / re.sub(r"[^0-9A-Za-z.-]+", "_", name)[-100:]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _unwritable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f"The note of what Ollama has loaded can't be written: {path}: {error.strerror or error}.",
        hint="Make room or permission there, or name another folder in NARTHEX_STATE.",
    )
