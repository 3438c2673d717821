"""``ComfyProcesses``: the processes of one ComfyUI on this machine, and the VRAM that they hold."""

from __future__ import annotations

from narthex.host.listeners import listener_pid, own_address
from narthex.host.processes import family, runs
from narthex.tenants.vram import held_now, on_cards


class ComfyProcesses:
    """``process``: the name of the one on the card, where that does not listen itself, as behind Docker's
    proxy."""

    def __init__(self, host: str, port: int, process: str | None = None) -> None:
        self._host, self._port, self._process = host, port, process
        self._listener: int | None = None
        self.last = frozenset[int]()  # as :meth:`pids` found them last

    def pids(self) -> frozenset[int]:
        """Who listens on its port and its children, where those are on a card, else by name."""
        listener = self._found()
        found = family(listener) if listener is not None else frozenset()
        if self._process is not None or not held_now(found):
            found |= on_cards(named=self._process, mentions=None if self._process else "comfyui")
        self.last = found
        return found

    def held_bytes(self) -> int | None:
        """VRAM that they hold now, by NVML; None without NVML, or where no process of its can be seen."""
        pids = self.pids()
        return held_now(pids) if pids else None

    def _found(self) -> int | None:
        """Looked for once, and again when it is gone: the search goes through all open files."""
        if self._listener is None or not runs(self._listener):
            here = own_address(self._host, self._port)
            self._listener = listener_pid(self._port, here) if here is not None else None
        return self._listener
