"""``narthex doctor bundle``: gathers, takes out what is private, writes, and says what it did."""

from __future__ import annotations

from pathlib import Path

import click

from narthex.cli.examination import live
from narthex.doctor.archive import default_name, must_be_free, write_archive
from narthex.doctor.bundle import make_bundle
from narthex.doctor.private_names import of_this_machine
from narthex.doctor.redact import Redactor
from narthex.doctor.rules import RULES, SIGNS
from narthex.units import format_size


def write(file: Path | None) -> None:
    """The archive's name is data, all else is talk."""
    path = file if file is not None else Path(default_name())
    must_be_free(path)
    words = {word for sign in SIGNS for text in sign.words for word in text.split()}
    redactor = Redactor(of_this_machine(words))
    made = make_bundle(live(None, RULES), RULES, SIGNS, redactor)
    size = write_archive(path, made.files)
    click.echo(str(path))
    talk = [f"{path} is written, {format_size(size)}: {', '.join(made.files)}."]
    if made.left_out:
        talk += ["Left out or replaced by stand-ins:", *(f"  {words}" for words in made.left_out)]
    if made.differs:
        talk.append("Note: what was left out changes the diagnosis; diagnosis.json tells both.")
    talk.append(f"Look through it before you send it: tar -xzf {path.name}")
    click.echo("\n".join(talk), err=True)
