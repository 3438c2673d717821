"""``narthex doctor --fix``: the person at the terminal, and what came of it."""

from __future__ import annotations

import shlex
import sys

import click
import msgspec

from narthex.cli.examination import BY_SLUG, look_since
from narthex.doctor.finding import Command, Diagnosis
from narthex.doctor.mending import Mended, mend
from narthex.doctor.recheck import Rechecker
from narthex.doctor.record import Record
from narthex.errors import ExitCode
from narthex.models.header import printable
from narthex.units import format_count
from narthex.views.diagnosis import command_lines
from narthex.views.ink import Ink


class Terminal:
    """Questions and answers on stderr. Without a terminal nobody is there to answer."""

    def __init__(self) -> None:
        self.present = sys.stdin.isatty() and sys.stderr.isatty()
        self._ink = Ink.of(sys.stderr)

    def say(self, text: str) -> None:
        """A paragraph; what a program printed keeps its lines."""
        for line in text.splitlines():
            click.echo(self._ink.wrap(printable(line), "  "), err=True)

    def show(self, command: Command) -> None:
        """The step as it will be done."""
        lines = list(command_lines(command, self._ink, "  "))
        if command.argv and command.text not in (" ".join(command.argv), shlex.join(command.argv)):
            lines.append(f"    runs: {printable(shlex.join(command.argv))}")
        if command.request is not None and command.request.url not in command.text:
            body = msgspec.json.encode(command.request.body).decode()
            lines.append(f"    sends: POST {command.request.url} {body}")
        click.echo("\n".join(["", *lines]), err=True)

    def ask(self, question: str) -> bool:
        """No is the answer of whoever only presses Enter. Ctrl-C raises KeyboardInterrupt."""
        try:
            return click.confirm(f"  {question}", default=False, err=True)
        except click.Abort as error:
            raise KeyboardInterrupt from error


def fix(diagnosis: Diagnosis, record: Record, *, yes: bool) -> ExitCode:
    """Exit code 0 where everything that was found is gone."""
    talk = Terminal()
    results = mend(diagnosis, talk, record, Rechecker(look_since, BY_SLUG), yes=yes)
    talk.say(f"\n{_end(results)}")
    return ExitCode.OK if all(row.gone for row in results) else ExitCode.FAILURE


def _end(results: list[Mended]) -> str:
    gone = sum(row.gone is True for row in results)
    tried = sum(len(row.steps) for row in results)
    if not tried:
        return "Nothing was changed: the steps above are yours to take."
    unknown = sum(row.gone is None and bool(row.steps) for row in results)
    rest = f" Of {unknown} it can't be told yet." if unknown else ""
    return (
        f"{format_count(tried, 'step')} taken; {gone} of {format_count(len(results), 'finding')} gone.{rest}"
    )
