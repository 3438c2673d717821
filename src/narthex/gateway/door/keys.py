"""``Keys``: the names and keys of those who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from narthex.errors import UsageError

_OTHERS = 0o077
LEAST_LETTERS = 16
_MAKE = "A line is made by: echo NAME $(openssl rand -hex 24)"


class Keys:
    """Only digests are kept: they all have one length, so that a comparison tells nothing of a key."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """``keys``: key by name."""
        self._digests = [(_digest(key), name) for name, key in keys.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, shown: str) -> str | None:
        """Whose key it is. All are compared, whichever fits."""
        digest, found = _digest(shown), None
        for known, name in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read_keys(path: Path) -> Keys:
    """From a file with NAME KEY on each line; empty lines and those that begin with # do not count.

    Raises UsageError where it can't be read, others may read it, or a line is none.
    """
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # a name with NUL; the home of nobody
        raise UsageError(f"The file of keys {path} can't be read: {_why(error)}.", hint=_MAKE) from error
    if mode & _OTHERS:
        raise UsageError(
            f"Others than its owner may read or write the file of keys {path} ({mode & 0o777:o}).",
            hint=f"chmod 600 {path}",
        )
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise UsageError(f"Line {number} of {path} is not NAME KEY.", hint=_MAKE)
        name, key = words
        if len(key) < LEAST_LETTERS:
            raise UsageError(
                f"The key of «{name}» in {path} is shorter than {LEAST_LETTERS} letters.", hint=_MAKE
            )
        if name in keys or key in keys.values():
            raise UsageError(f"Line {number} of {path} repeats a name or a key.", hint="Each has its own.")
        keys[name] = key
    if not keys:
        raise UsageError(f"The file of keys {path} has no key.", hint=_MAKE)
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")
