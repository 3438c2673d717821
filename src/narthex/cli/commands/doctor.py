"""``narthex doctor``: name the cause, show the evidence, give the way out."""

from __future__ import annotations

from pathlib import Path

import click

from narthex.cli.options import json_option


@click.command()
@click.option("--evidence", "case", type=click.Path(path_type=Path), help="Diagnose this case file.")
@json_option
def command(case: Path | None, as_json: bool) -> None:
    """Name the cause of a failure, show the evidence, give the way out."""
    from narthex.doctor.diagnose import diagnose
    from narthex.doctor.reading.case import read_case
    from narthex.doctor.reading.scanner import read_evidence
    from narthex.doctor.rules import RULES, SIGNS
    from narthex.views.diagnosis import diagnosis_json

    assert case is not None
    diagnosis = diagnose(read_evidence(read_case(case), SIGNS), RULES)
    if as_json:
        click.echo(diagnosis_json(diagnosis))
    if not diagnosis.healthy:
        raise SystemExit(1)
