"""Where a log is: a file, the systemd journal of a unit, a container's output, the kernel's log."""

from __future__ import annotations

from pathlib import Path

import msgspec

KERNEL = "kernel"


class LogPlace(msgspec.Struct, frozen=True, kw_only=True):
    """``where`` is written as in NARTHEX_OLLAMA_LOG: ``file:PATH``, ``journal:UNIT``, ``user-journal:UNIT``,
    ``docker:NAME``, or ``kernel:``."""

    kind: str  # of the evidence that it gives: a name of narthex.doctor.evidence.KINDS
    name: str  # of the source, as quotes name it
    where: str

    @property
    def means(self) -> str:
        """``file``, ``journal``, ``user-journal``, ``docker`` or ``kernel``."""
        return self.where.partition(":")[0]

    @property
    def target(self) -> str:
        """The path, unit or container."""
        return self.where.partition(":")[2]


def file_place(kind: str, path: Path | str) -> LogPlace:
    """A log file."""
    return LogPlace(kind=kind, name=str(path), where=f"file:{path}")


def place_of(kind: str, where: str) -> LogPlace:
    """A place as NARTHEX_OLLAMA_LOG and :attr:`narthex.engines.ollama.records.Server.log` name it."""
    means, _, target = where.partition(":")
    names = {
        "file": target,
        "docker": f"docker logs {target}",
        "journal": f"journalctl -u {target}",
        "user-journal": f"journalctl --user -u {target}",
        KERNEL: "journalctl -k",
    }
    return LogPlace(kind=kind, name=names.get(means, target), where=where)


def journal_options(place: LogPlace) -> list[str]:
    """What tells journalctl which entries are meant."""
    if place.means == KERNEL:
        return ["--dmesg"]
    return ["--user-unit" if place.means == "user-journal" else "--unit", place.target]
