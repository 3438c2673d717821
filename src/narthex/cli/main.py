"""The ``narthex`` command: a table of verbs, each loaded only when it is called.

``narthex --help`` imports no verb; that keeps it under 0.2 s (``bench/startup.py``).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from narthex import __version__

COMMANDS: dict[str, str] = {
    "init": "A first narthex.toml from what is found on this machine.",
    "inspect": "What the header of a model file says.",
    "models": "What an Ollama holds, and what of it is loaded.",
    "host": "What this machine is: GPUs, their tenants, RAM, cores, engines.",
    "plan": "Bytes per device before a load, and whether it fits.",
    "trial": "One measured run of one setting: the manual loop.",
    "tune": "Find, prove and keep the best setting for a model.",
    "soak": "Go on proving a profile under a nearly full context.",
    "journal": "What was tried, measured and decided.",
    "profile": "The settled answers: list, show, verify, export.",
    "apply": "A profile as a tuned model in Ollama, proven by loading it.",
    "unapply": "Take the tuned model out of Ollama again.",
    "serve": "The gateway: roles, room on the card, errors with their cause.",
    "route": "What would answer a role or a model, and why.",
    "replay": "What the gateway did, and what another setting would have done.",
    "doctor": "What is wrong: the cause, the evidence, the way out.",
    "report": "One page about one study.",
    "settings": "Every setting, its value, and where it came from.",
    "completion": "Print the script that completes commands in a shell.",
}

_EXAMPLES = """\b
Examples:
  narthex plan model.gguf --vram 20GB     what fits, before any load
  narthex tune model.gguf                 measure, choose, prove, keep
  narthex profile export NAME --format llama-server
"""


class LazyGroup(click.Group):
    """A group whose verbs live in ``narthex.cli.commands.<verb>`` and are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table: the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"narthex.cli.commands.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself: no verb is imported for the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete verbs from the table, so that a Tab is quick."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="narthex", message="%(prog)s %(version)s")
def command() -> None:
    """Plan, tune and prove the settings of a local model, and keep the record."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs one command and exits with an :class:`~narthex.errors.ExitCode`."""
    from narthex.cli.failure import run

    sys.exit(run(command, arguments))
