"""``narthex report``: one page about one study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from narthex.errors import NarthexError

if TYPE_CHECKING:
    from narthex.journal.journal import Journal
    from narthex.journal.rows import StudyRow
    from narthex.studies.records import StudyResult


@click.command()
@click.argument("study", default="last")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="The file to write; «-» is stdout.")
def command(study: str, output: str | None) -> None:
    """Write one self-contained HTML page about STUDY: an id, the beginning of one, or «last».

    The page needs no network. Without -o it is written to narthex-STUDY.html in this folder.
    """
    from narthex.journal.journal import Journal
    from narthex.views.report.page import render
    from narthex.views.report.source import pictures

    with Journal.open() as journal:
        row = journal.find_study(study)
        result = _result(journal, row)
        notes = [note.text for note in journal.notes(row.id)]
    memory, gap = pictures(result)
    page = render(result, memory, memory_gap=gap, notes=notes)
    if output == "-":
        click.echo(page, nl=False)
        return
    path = Path(output or f"narthex-{row.id}.html")
    _write(path, page)
    click.echo(str(path))


def _result(journal: Journal, row: StudyRow) -> StudyResult:
    from narthex.views.report.source import stored, unfinished

    if row.result is not None:
        return stored(row.result, row.id)
    return unfinished(row, journal.trials(row.id), journal.decisions(row.id), journal.soaks(row.id))


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NarthexError(
            f"{path} can't be written: {error.strerror}.", hint="Name another file with -o."
        ) from error
