"""Who listens where: from the tables of ss, netstat and lsof in a transcript, and from readings."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit, Reading
from narthex.doctor.finding import Quote
from narthex.doctor.sign import Sign

ROW = Sign(
    r"^(?:tcp6? )?LISTEN \d+ \d+ (?P<ss>\S+):(?P<ss_port>\d+) \S+"
    r"(?: users:\(\(\"(?P<ss_who>[^\"]+)\",pid=(?P<ss_pid>\d+))?"
    r"|^tcp6? \d+ \d+ (?P<ns>\S+):(?P<ns_port>\d+) \S+ LISTEN\S*(?: \d+ \d+)?"
    r"(?: (?P<ns_pid>\d+)/(?P<ns_who>\S+))?"
    r"|^TCP (?P<win>\S+):(?P<win_port>\d+) \S+ LISTENING(?: (?P<win_pid>\d+))?"
    r"|^(?P<ls_who>\S+) (?P<ls_pid>\d+) \S+ \d+u IPv[46] .*TCP (?P<ls>\S+):(?P<ls_port>\d+) \(LISTEN\)",
    words=["listen"],
    first=100,
    last=100,
)
_TABLES = ("ss", "ns", "win", "ls")


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who listens on a port."""

    port: int
    addresses: tuple[str, ...]
    process: str = ""
    pid: str = ""
    service: str = ""  # "ollama", "openwebui", "comfyui"; "" not known
    seen: Entry | Reading

    @property
    def who(self) -> str:
        """«ollama (process 2233)», or «a process that is not named»."""
        name = self.process or self.service
        if not name:
            return f"process {self.pid}" if self.pid else "a process that is not named"
        return f"{name} (process {self.pid})" if self.pid else name

    def quote(self, evidence: Evidence) -> Quote:
        """The row that shows it."""
        return self.seen.quote() if isinstance(self.seen, Entry) else evidence.quote_reading(self.seen)


def listeners(evidence: Evidence) -> list[Listener]:
    """All that the evidence shows, transcripts first."""
    return [*map(_of_row, evidence.hits(ROW)), *_of_readings(evidence)]


def listeners_on(evidence: Evidence, port: int) -> list[Listener]:
    """Those on one port."""
    return [row for row in listeners(evidence) if row.port == port]


def _of_row(hit: Hit) -> Listener:
    table = next(name for name in _TABLES if hit[f"{name}_port"])
    groups = hit.match.groupdict()
    process = str(groups.get(f"{table}_who") or "")
    return Listener(
        port=int(hit[f"{table}_port"]),
        addresses=(hit[table],),
        process=process,
        pid=str(groups.get(f"{table}_pid") or ""),
        service="ollama" if "ollama" in process.lower() else "",
        seen=hit.entry,
    )


def _of_readings(evidence: Evidence) -> Iterator[Listener]:
    for row in evidence.all_readings("listener"):
        if not isinstance(row.value, dict) or not row.about.isdecimal():
            continue
        addresses = row.value.get("addresses") or ()
        yield Listener(
            port=int(row.about),
            addresses=tuple(map(str, addresses)),
            process=str(row.value.get("process") or ""),
            pid=str(row.value.get("pid") or ""),
            service=str(row.value.get("service") or ""),
            seen=row,
        )
