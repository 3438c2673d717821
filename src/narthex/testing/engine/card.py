"""``Card``: a graphics card that does not exist, shared by the processes of one test.

A file holds who has how many bytes; a lock on it makes an allocation one step. A process that is gone has
nothing, as with a real card, whether it gave back or was killed. It may be killed or stopped at any moment:
the file is always whole, since it is one page that is written at once, and who only looks needs no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_PAGE = 4096
_State = dict[str, int]  # "total", "most" (held at one time), "refused" (allocations), and a pid each


class Card:
    """All methods may be called from any process that knows the file. Sizes are bytes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str, total: int) -> Card:
        """An empty one."""
        Path(path).write_bytes(_page({"total": total, "most": 0, "refused": 0}))
        return cls(path)

    def take(self, count: int, pid: int | None = None) -> bool:
        """More for a process, by default this one; False where that is not free: then nothing is taken."""

        def work(state: _State) -> bool:
            held = sum(_holders(state).values())
            if held + count > state["total"]:
                state["refused"] += 1
                return False
            key = str(pid or os.getpid())
            state[key] = state.get(key, 0) + count
            state["most"] = max(state["most"], held + count)
            return True

        return self._with(work)

    def give_back(self, pid: int | None = None) -> None:
        """Everything of a process."""
        self._with(lambda state: state.pop(str(pid or os.getpid()), None))

    def free(self) -> int:
        """What is left."""
        state = self._read()
        return state["total"] - sum(_holders(state).values())

    def held(self) -> dict[int, int]:
        """By process."""
        return {int(pid): size for pid, size in _holders(self._read()).items()}

    def total(self) -> int:
        """All of it."""
        return self._read()["total"]

    def most(self) -> int:
        """The most that was ever held at one time."""
        return self._read()["most"]

    def refused(self) -> int:
        """Allocations that failed."""
        return self._read()["refused"]

    def _read(self) -> _State:
        return _state(self.path.read_bytes())

    def _with(self, work: Callable[[_State], _T]) -> _T:
        with self.path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = _state(os.pread(file.fileno(), _PAGE, 0))
            found = work(state)
            os.pwrite(file.fileno(), _page(state), 0)
        return found


def _state(page: bytes) -> _State:
    """Without those that are gone."""
    state: _State = json.loads(page)
    gone = [key for key in state if key.isdecimal() and not _lives(int(key))]
    return {key: size for key, size in state.items() if key not in gone}


def _page(state: _State) -> bytes:
    return json.dumps(state).encode().ljust(_PAGE)


def _holders(state: _State) -> _State:
    return {key: size for key, size in state.items() if key.isdecimal()}


def _lives(pid: int) -> bool:
    """A process that has ended and was not yet waited for holds nothing any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
