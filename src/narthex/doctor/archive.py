"""The file of a bundle: whole or not at all, never over another, readable for its owner only."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from narthex.errors import UsageError


def default_name() -> str:
    """``narthex-doctor-20261122-203000.tar.gz``."""
    return f"narthex-doctor-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"


def must_be_free(path: Path) -> None:
    """Before anything is collected. Raises UsageError."""
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} is there already, and narthex does not overwrite it.", hint="Name another file."
        )
    if not path.resolve().parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first, or name another file.")


def write_archive(path: Path, files: Mapping[str, bytes]) -> int:
    """The whole archive or none of it, readable for its owner only; returns its size in bytes.

    Raises UsageError where it can't be written, OSError for a full disk.
    """
    must_be_free(path)
    target = path.resolve()
    data = _archive(target.name.removesuffix(".gz").removesuffix(".tar"), files)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            number = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            target.open("x").close()  # of two at a time only one gets the name
            draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
    except FileExistsError:
        must_be_free(path)
        raise
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.", hint="Name another file.") from error
    return len(data)


def _archive(folder: str, files: Mapping[str, bytes]) -> bytes:
    """Owner and group say nothing of who made it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
