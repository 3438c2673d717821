"""The one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from narthex.errors import ExitCode, NarthexError

_COMPLETE = "_NARTHEX_COMPLETE"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code. Nothing but SystemExit gets out.

    Expected errors become one sentence and a hint on stderr; a surprise becomes a crash report.
    """
    _open_closed_streams()
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
            _say(f"narthex: {error.message}\n  {error.hint}")
            code = int(error.exit_code)
        case click.exceptions.Exit():  # --help, --version
            code = error.exit_code
        case click.ClickException():
            with contextlib.suppress(OSError):
                error.show()
            code = int(ExitCode.USAGE)
        case KeyboardInterrupt() | click.exceptions.Abort():
            _say("\nnarthex: interrupted.")
            code = int(ExitCode.INTERRUPTED)
        case BrokenPipeError():
            # The reader has what it wanted (`narthex journal list | head`): no error of ours.
            _give_up_stdout()
        case OSError() if error.errno in _FULL:
            _give_up_stdout()
            _say(
                "narthex: The disk is full: what was to be written does not fit.\n"
                "  Free some space and run the same command again."
            )
            code = int(ExitCode.FAILURE)
        case _:
            code = _crash(error, words)
    return code


def _say(text: str) -> None:
    """Talk; nobody may be there to hear it, and the exit code still counts."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _give_up_stdout() -> None:
    """What is still in its buffer goes nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """A standard stream that the caller closed (`>&-`) becomes /dev/null.

    Otherwise the next file that is opened, the journal for example, gets its number, and print writes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


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
    _say(
        f"narthex: an unexpected error: {type(error).__name__}. This is a fault of narthex, not yours.\n"
        f"  {f'The report is in {path}' if path else 'The report is above'}: it holds no private paths."
    )
    return int(ExitCode.CRASH)


def _end_gently_on_signals() -> None:
    """SIGTERM and SIGHUP take the way of Ctrl-C, so that engines are stopped and the terminal is restored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has it ignored: leave that
            signal.signal(number, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
