"""The one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from narthex.errors import ExitCode, NarthexError


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command. Expected errors become one sentence and a hint on stderr."""
    try:
        result = command.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except NarthexError as error:
        click.echo(f"narthex: {error.message}\n  {error.hint}", err=True)
        return int(error.exit_code)
    except click.exceptions.Abort:
        click.echo("narthex: interrupted.", err=True)
        return int(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USAGE)
    return result if isinstance(result, int) else int(ExitCode.OK)
