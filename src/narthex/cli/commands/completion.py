"""``narthex completion``: the script that makes Tab work."""

from __future__ import annotations

import click

HOW = {
    "bash": "echo 'eval \"$(narthex completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(narthex completion zsh)\"' >> ~/.zshrc",
    "fish": "narthex completion fish > ~/.config/fish/completions/narthex.fish",
}


@click.command(epilog="\b\nTo install it:\n" + "\n".join(f"  {how}" for how in HOW.values()))
@click.argument("shell", type=click.Choice(list(HOW)))
def command(shell: str) -> None:
    """Print the completion script of SHELL."""
    from click.shell_completion import get_completion_class

    from narthex.cli.main import command as narthex

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(narthex, {}, "narthex", "_NARTHEX_COMPLETE").source())
    click.echo(f"# To install it:  {HOW[shell]}")
