"""``narthex init``: a first narthex.toml from what is found on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

import click

from narthex.cli.options import ollama_option
from narthex.errors import NarthexError, UsageError

_NOT_HERE = "Name another file: --output FILE."


@click.command("init")
@ollama_option
@click.option(
    "--output", metavar="FILE", default="narthex.toml", show_default=True, help="Where to write it."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(ollama: str | None, output: str, force: bool) -> None:
    """Write a first narthex.toml: house defaults, and suggestions from what is found here.

    It looks at the cards, at an Ollama with its models, and for a ComfyUI. Nothing is loaded or changed.
    Roles are only suggested, in lines that do not count until you take the «#» away. With `--output -` the
    text is only shown.
    """
    from narthex.policy import read_policy

    path = Path(output).expanduser()
    if output != "-":
        _check(path, force)
    _forget_broken_policy()
    from narthex.cli.first_look import first_look
    from narthex.views.policy_draft import policy_draft

    look = first_look(ollama)
    text = policy_draft(look)
    read_policy(text, path)  # what is written must load
    if output == "-":
        click.echo(text, nl=False)
        return
    write_new(path, text, force)
    found = [words for words in (look.ollama, look.comfyui) if words]
    click.echo(f"{path} is written. {_where(path)}", err=True)
    for words in (*(f"Found: {each}." for each in found), *look.gaps):
        click.echo(f"  {words}", err=True)


def write_new(path: Path, text: str, replace: bool) -> None:
    """The whole file or none of it. Raises UsageError where it can't be written, OSError for a full disk.

    Without ``replace`` a file that has come in the meantime stays.
    """
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if not replace:
                target.open("x").close()
            draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{path} can't be written: {error.strerror}.", hint=_NOT_HERE) from error


def _check(path: Path, force: bool) -> None:
    """Before anything is looked for."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", hint=_NOT_HERE)
    if path.exists() and not force:
        raise _exists(path)
    if not path.resolve().parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first, or name another file.")


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} is there already, and narthex does not overwrite it.",
        hint="Use --force to replace it, or --output - to look at a new one beside it.",
    )


def _forget_broken_policy() -> None:
    """A file that does not load must not keep a new one from being written: it is as if it were empty."""
    from narthex.policy import load_policy

    try:
        load_policy()
    except NarthexError as error:
        click.echo(f"The present policy does not count: {error.message}", err=True)
        os.environ["NARTHEX_CONFIG"] = os.devnull


def _where(path: Path) -> str:
    """Whether narthex will read it."""
    from narthex.policy import find_config

    found = find_config()
    if found is not None and found.resolve() == path.resolve():
        usual = path.name == "narthex.toml" and path.resolve().parent == Path.cwd()
        return "It counts for commands that are run in this folder." if usual else "It counts."
    return f"To use it, set NARTHEX_CONFIG={path}, or move it to ~/.config/narthex/narthex.toml."
