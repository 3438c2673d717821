"""What a tenant of the card is to the rest of narthex: a program beside the engine that also needs VRAM."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from narthex.engines._base import Watch


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The most VRAM that a tenant held while its jobs ran. ``bytes`` is None where nothing tells; ``gaps``
    say why, or what the figure lacks."""

    bytes: int | None
    source: str  # «NVML, by process», «ComfyUI's own figures», "" for none
    jobs: int  # that it is taken from
    gaps: tuple[str, ...] = ()


class JobsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that a tenant did beside a soak."""

    done: int
    failed: int
    words: tuple[str, ...] = ()  # what failed ones said, each once
    ended: str = ""  # why there are no more jobs, although they are still wanted


class JobEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How one job ended. ``lasting``: another attempt would end the same way. ``ran``: it was at work before
    it ended, so that what it ran into may be the neighbour's doing."""

    words: str = ""  # "": well
    lasting: bool = False
    ran: bool = True


class Job(Protocol):
    """One job under way."""

    def begun(self) -> bool:
        """Whether it really runs; False while it waits in a queue."""
        ...

    def poll(self) -> JobEnd | None:
        """How it ended; None while it waits or runs."""
        ...

    def leave(self, wait: bool = True) -> None:
        """End it where that is ours to do, else take it out of the queue, or where it runs already wait for
        its end. ``wait`` False is for someone in a hurry: what runs in a server ends there by itself."""
        ...


class Work(Protocol):
    """Jobs that run one after the other until this is left."""

    def report(self) -> JobsReport:
        """So far. May be asked at any time."""
        ...


class Tenant(Protocol):
    """Another program on the card, by the name it has behind ``--beside``."""

    name: str

    def describe(self) -> str:
        """One line for people: what it is, where, and which job it gets. Raises TenantError."""
        ...

    def must_be_ready(self) -> None:
        """Raises TenantError where no job of its could be begun now: it is not there, or has nothing to do.
        No job is begun, and nothing is changed."""
        ...

    def held_bytes(self) -> int | None:
        """VRAM that it holds now: this is not free anyway. None where it can't be seen."""
        ...

    def measure(self, watch: Watch) -> Peak:
        """Let it do one job and watch its VRAM. Raises TenantError where the job fails."""
        ...

    def job(self) -> AbstractContextManager[Work]:
        """Keep its jobs running, one after the other, until the context is left. Entered once the first one
        really runs. Raises TenantError where none ever did; one that failed at its work is in the report."""
        ...
