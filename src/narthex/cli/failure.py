"""The one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from narthex.errors import ExitCode, NarthexError

_COMPLETE = "_NARTHEX_COMPLETE"


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code. Nothing but SystemExit gets out.

    Expected errors become one sentence and a hint on stderr; a surprise becomes a crash report.
    """
    _end_gently_on_signals()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _invoke(command, list(words))  # click takes words out of the list
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return _answer(error, words)
    return code


def _answer(error: BaseException, words: list[str]) -> int:
    code = int(ExitCode.OK)
    match error:
        case NarthexError():
            click.echo(f"narthex: {error.message}\n  {error.hint}", err=True)
            code = int(error.exit_code)
        case click.exceptions.Exit():  # --help, --version
            code = error.exit_code
        case click.ClickException():
            error.show()
            code = int(ExitCode.USAGE)
        case KeyboardInterrupt() | click.exceptions.Abort():
            click.echo("\nnarthex: interrupted.", err=True)
            code = int(ExitCode.INTERRUPTED)
        case BrokenPipeError():
            # The reader has what it wanted (`narthex journal list | head`): no error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case _:
            code = _crash(error, words)
    return code


def _invoke(command: click.Command, words: list[str]) -> int:
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, "narthex", _COMPLETE, instruction)
    with command.make_context("narthex", words) as context:
        result = command.invoke(context)
    return int(result) if isinstance(result, int) else int(ExitCode.OK)


def _crash(error: BaseException, words: list[str]) -> int:
    from narthex.cli.crash import write_report

    verb = words[0] if words and not words[0].startswith("-") else ""
    path = write_report(error, verb)
    click.echo(
        f"narthex: an unexpected error: {type(error).__name__}. This is a fault of narthex, not yours.\n"
        f"  {f'The report is in {path}' if path else 'The report is above'}: it holds no private paths.",
        err=True,
    )
    return int(ExitCode.CRASH)


def _end_gently_on_signals() -> None:
    """SIGTERM and SIGHUP take the way of Ctrl-C, so that engines are stopped and the terminal is restored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has it ignored: leave that
            signal.signal(number, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
