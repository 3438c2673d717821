"""``narthex report``: one page about one study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    from narthex.views.report.source import pictures, write_page

    with Journal.open() as journal:
        row = journal.find_study(study)
        result = _result(journal, row)
        notes = [note.text for note in journal.notes(row.id)]
    if output == "-":
        memory, gap = pictures(result)
        click.echo(render(result, memory, memory_gap=gap, notes=notes), nl=False)
        return
    path = Path(output or f"narthex-{row.id}.html")
    write_page(result, path, notes)
    click.echo(str(path))


def _result(journal: Journal, row: StudyRow) -> StudyResult:
    from narthex.views.report.source import stored, unfinished

    if row.result is not None:
        return stored(row.result, row.id)
    return unfinished(row, journal.trials(row.id), journal.decisions(row.id), journal.soaks(row.id))
