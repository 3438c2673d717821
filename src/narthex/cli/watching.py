"""``narthex doctor --watch``: what comes up while it watches, told as it comes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

import click
import msgspec

from narthex.doctor.collect.gather import Scope
from narthex.doctor.collect.log_places import log_places
from narthex.doctor.collect.places import LogPlace, file_place
from narthex.doctor.collect.pulse import Pulse
from narthex.doctor.finding import Finding
from narthex.doctor.reading.files import read_files
from narthex.doctor.record import Record
from narthex.doctor.rule import Rule
from narthex.doctor.rules import SIGNS
from narthex.doctor.watch import watch
from narthex.errors import ExitCode, UsageError
from narthex.models.header import printable
from narthex.views.diagnosis import finding_text, safe_json
from narthex.views.ink import Ink


def watch_logs(logs: Sequence[str], rules: Sequence[Rule], *, as_json: bool) -> ExitCode:
    """Until Ctrl-C. Findings are data, one JSON object a line with ``--json``; all else is talk.

    Files that are named are followed alone; else all logs of this machine's services, and whether those
    answer.
    """
    scope = Scope()
    places = _named(logs) if logs else log_places(scope)
    probe = None if logs else Pulse(scope)
    names = ", ".join(printable(place.name) for place in places)
    click.echo(f"Logs: {names or 'none was found'}. Ctrl-C ends it.", err=True)
    with Record(_note) as record:
        tell = _Teller(record if not logs else None, as_json)
        ended = watch(
            places, rules, SIGNS, on_finding=tell, on_note=_note, stop=threading.Event(), probe=probe
        )
    click.echo(f"\n{ended.words}", err=True)
    return ExitCode.INTERRUPTED


class _Teller:
    """Prints a finding, and writes down its first coming."""

    def __init__(self, record: Record | None, as_json: bool) -> None:
        self._record, self._as_json = record, as_json
        self._ink = Ink.of(sys.stdout)

    def __call__(self, finding: Finding, count: int) -> None:
        if self._record is not None and count == 1:
            self._record.findings([finding])
        if self._as_json:
            row = {"at": time.time(), "count": count, "finding": finding}
            click.echo(safe_json(msgspec.json.encode(row)))
        elif count == 1:
            click.echo(f"{_clock()}  {finding_text(finding, self._ink)}\n")
        else:
            click.echo(f"{_clock()}  again, now {count} times: {finding.title} ({finding.cause})\n")
        sys.stdout.flush()


def _named(logs: Sequence[str]) -> list[LogPlace]:
    if "-" in logs:
        raise UsageError("A pipe can't be watched.", hint="Name log files behind --logs.")
    return [file_place(text.kind, text.name) for text in read_files(logs)]


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _note(text: str) -> None:
    click.echo(f"{_clock()}  {printable(text)}", err=True)
