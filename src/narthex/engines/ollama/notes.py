"""What was loaded before narthex came, on paper: a note in the state folder, and one narthex a server.

The note is written before anything is unloaded and goes away once everything is back, so what a SIGKILL left
behind is put back by the next run. The lock is the kernel's: it ends with its holder, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from narthex import paths
from narthex.errors import EngineError
from narthex.flock import flock


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model as it was found."""

    name: str
    forever: bool = False
    seconds_left: float | None = None  # of its keep-alive when the note was written; None: unknown
    context_length: int | None = None  # of one slot
    options: dict[str, Any] = {}  # what its runner was started with, as far as a command line told
    failed: int = 0  # times that it could not be put back


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One server's loaded models in the order in which Ollama listed them, and what narthex loads there."""

    url: str
    pid: int  # of the narthex that wrote it
    at: float  # seconds since the epoch; what is left of the models' stays counts from here
    formers: tuple[Former, ...] = ()
    ours: tuple[str, ...] = ()  # models that narthex loaded: they are not put back


class Holder(msgspec.Struct, frozen=True):
    """Who works with a server."""

    pid: int
    since: float


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


def add_ours(url: str, model: str) -> None:
    """Remember that narthex itself loads this model; without a note there is nothing to tell apart."""
    note = read_note(url)
    if note is not None and model not in note.ours:
        write_note(msgspec.structs.replace(note, ours=(*note.ours, model)))


@contextlib.contextmanager
def only_one(url: str) -> Iterator[None]:
    """Hold this server for one narthex. Raises EngineError where another one has it, and says which."""
    path = _path(url, "lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        try:
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(url, os.pread(descriptor, 4096, 0)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(Holder(os.getpid(), time.time())), 0)
        yield
    finally:
        os.close(descriptor)  # the file stays: were it deleted, two could lock two files of one name


def _path(url: str, suffix: str) -> Path:
    name = re.sub(r"[^0-9A-Za-z.-]+", "_", url.partition("://")[2] or url)[:100]
    return paths.state_dir() / "ollama" / f"{name}.{suffix}"


def _unwritable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f"The note of what Ollama has loaded can't be written: {path}: {error.strerror or error}.",
        hint="Make room or permission there, or name another folder in NARTHEX_STATE.",
    )


def _taken(url: str, written: bytes) -> EngineError:
    try:
        holder = msgspec.json.decode(written, type=Holder)
    except msgspec.MsgspecError:
        who, hint = "another process", "Wait for it to finish, or stop it."
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        who = f"process {holder.pid}, since {since}"
        hint = f"Wait for it to finish, or stop it with «kill -INT {holder.pid}» and start again."
    return EngineError(f"Another narthex is already working with the Ollama at {url}: {who}.", hint=hint)
