"""Writes ``docs/reference/`` and ``docs/causes/`` from the tables of the program. ``--check`` only says what
is stale.

python docs/generate.py [--check]
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from narthex import errors, settings
from narthex.cli.main import COMMANDS
from narthex.doctor.rules import RULES
from narthex.engines.ollama import options
from narthex.engines.ollama.variables import OF_KNOBS
from narthex.errors import ExitCode, NarthexError
from narthex.knobs import KNOBS, KnobValues
from narthex.outcomes import Outcome
from narthex.policy.records import NAMED_SECTIONS, SECTIONS, keys_of
from narthex.views.cause_page import index_markdown, page_markdown
from narthex.views.text import OUTCOME_WORDS

FOLDER = Path(__file__).resolve().parent
NOTE = (
    "<!-- Written by docs/generate.py from the tables of the program. Change those, then `make docs`. -->\n"
)
CAUSES_NOTE = (
    "<!-- Written by docs/generate.py from the rules of the doctor. Change those, then `make docs`. -->\n"
)
KNOBS_HEAD = """# Knobs

An engine setting that narthex may turn. The same names are used by `--set`, in JSON and in profiles.

In Ollama some are options of a request or PARAMETERs of a model. Batch and micro-batch are one there. The
rest are variables of the whole server: no load can ask for them, see
[server-wide settings](../how-to/server-wide-settings.md).
"""
SETTINGS_HEAD = """# Settings

Settings of narthex itself. A flag of a command goes before the environment variable, that before
[`narthex.toml`](narthex-toml.md), that before the default. `narthex settings` shows what holds right now, and
where it came from.
"""
POLICY_HEAD = """# narthex.toml

The house policy: defaults, rules, roles and start points of the models, tenants of the card. `narthex init`
writes one from what it finds; every line may be left out. The first of these files is read:

1. `$NARTHEX_CONFIG`
2. `narthex.toml` in the folder where a command is run
3. `$XDG_CONFIG_HOME/narthex/narthex.toml`, that is `~/.config/narthex/narthex.toml`

A key that is not known is refused, with its line. An environment variable goes before the file, also before a
model's own table: [settings](settings.md). Names of models are compared as Ollama does it: `llama3` is
`llama3:latest`.
[`examples/prometheus.toml`](../../examples/prometheus.toml) is a whole one.
"""
OUTCOMES_HEAD = """# Outcomes

Every trial and every soak ends in one of these words. All but `done` come with the line that proves it: of
the engine's output, or of a server's answer. Where less memory is the remedy, a study backs off, one knob at
a time.
[When Ollama fails](../how-to/when-ollama-fails.md) tells what to do about each.
"""
EXIT_HEAD = """# Exit codes

An error is one sentence and a way out, both on stderr.
"""
EXIT_WORDS = {
    ExitCode.OK: "It worked. Also when the reader of a pipe stops early, as `head` does.",
    ExitCode.FAILURE: "An expected error that has no better place. Of `narthex doctor`: something is wrong.",
    ExitCode.CRASH: "A fault of narthex. A report without private paths is in the state folder; "
    "its place is printed.",
    ExitCode.INTERRUPTED: "Ctrl-C, SIGTERM or SIGHUP. Engines are stopped; what was measured is journaled.",
}


def pages() -> dict[str, str]:
    """Path below ``docs/`` → text of every generated page."""
    return {
        "reference/commands.md": commands(),
        "reference/knobs.md": knobs(),
        "reference/settings.md": settings_page(),
        "reference/narthex-toml.md": policy_page(),
        "reference/outcomes.md": outcomes(),
        "reference/exit-codes.md": exit_codes(),
        **causes(),
    }


def causes() -> dict[str, str]:
    """What the doctor can name: an index, and a page for each rule."""
    known = {rule.slug for rule in RULES}
    pages = {f"causes/{rule.slug}.md": page_markdown(rule, known) for rule in RULES}
    return {
        name: f"{CAUSES_NOTE}\n{text}"
        for name, text in {"causes/README.md": index_markdown(RULES), **pages}.items()
    }


def commands() -> str:
    """Every verb with its arguments and options, from click."""
    parts = [NOTE, "# Commands\n"]
    parts.append(
        table(
            ("command", "what it does"), [(f"[`narthex {v}`](#narthex-{v})", t) for v, t in COMMANDS.items()]
        )
    )
    for verb in COMMANDS:
        command = importlib.import_module(f"narthex.cli.commands.{verb}").command
        for name, each in tree(f"narthex {verb}", command):
            parts.append(section(name, each))
    return "\n".join(parts)


def tree(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and what is below it, with full names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            assert below is not None
            yield from tree(f"{name} {child}", below)


def section(name: str, command: click.Command) -> str:
    """One command: usage, help, options."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}\n", f"```\n{usage}\n```\n", paragraphs(command.help or ""), ""]
    rows = [
        (
            ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts)),
            metavar(option, context),
            option.help or "",
        )
        for option in command.params
        if isinstance(option, click.Option)
    ]
    if rows:
        lines.append(table(("option", "value", "meaning"), rows))
    return "\n".join(lines)


def paragraphs(text: str) -> str:
    """Click's help text as Markdown."""
    blocks = inspect.cleandoc(text).split("\n\n")
    done = []
    for block in blocks:
        if block.startswith("\b"):
            done.append("```\n" + block.removeprefix("\b").strip("\n") + "\n```")
        else:
            done.append(" ".join(block.split()))
    return "\n\n".join(done)


def metavar(option: click.Option, context: click.Context) -> str:
    """What stands behind a flag."""
    if option.is_flag or option.count:
        return ""
    return f"`{option.make_metavar(context)}`"


def knobs() -> str:
    """The engine settings that may be turned."""
    ollama = ollamas_names()
    rows = [
        (
            f"`{knob.name}`",
            f"`{knob.flag}`",
            f"`{ollama[knob.name]}`",
            ", ".join(f"`{choice}`" for choice in knob.choices) or f"{knob.unit}, {knob.minimum} or more",
            knob.help,
        )
        for knob in KNOBS
    ]
    head = ("knob", "flag of narthex", "in Ollama", "values", "meaning")
    return "\n".join([NOTE, KNOBS_HEAD, table(head, rows)])


def ollamas_names() -> dict[str, str]:
    """Knob → the option of a load, asked of the code that reads one, or the variable of the server."""
    start = KnobValues()
    found = {
        knob: option
        for option in options.NAMES
        for knob in options.knobs_from({option: 1}, start).difference(start)
    }
    return {**OF_KNOBS, **found}


def settings_page() -> str:
    """The settings of narthex itself."""
    rows = [
        (
            f"`{row.name}`",
            f"`{row.env}`",
            f"`{row.toml}`" if row.toml else "",
            row.default_words,
            row.help,
        )
        for row in settings.SETTINGS
    ]
    head = ("setting", "environment variable", "in narthex.toml", "default", "meaning")
    return "\n".join([NOTE, SETTINGS_HEAD, table(head, rows)])


def policy_page() -> str:
    """The keys of ``narthex.toml``."""
    parts = [NOTE, POLICY_HEAD]
    titles = {
        **{name: f"[{name}]" for name in SECTIONS},
        **{name: f'[{name}."NAME"]' for name in NAMED_SECTIONS},
        "roles": "[roles]` and `[roles.NAME]",
    }
    for name, section in {**SECTIONS, **NAMED_SECTIONS}.items():
        rows = [(f"`{key}`", kind.words, meaning) for key, (kind, meaning) in keys_of(section).items()]
        words = " ".join((inspect.getdoc(section) or "").split())
        parts.append(f"## `{titles[name]}`\n\n{words}\n")
        parts.append(table(("key", "value", "meaning"), rows))
    return "\n".join(parts)


def outcomes() -> str:
    """How a load, a trial or a soak can end."""
    rows = [
        (f"`{outcome.value}`", OUTCOME_WORDS[outcome], "yes" if outcome.is_memory else "")
        for outcome in Outcome
    ]
    return "\n".join([NOTE, OUTCOMES_HEAD, table(("outcome", "in words", "back-off"), rows)])


def exit_codes() -> str:
    """What the process returns."""
    rows = []
    for code in ExitCode:
        kinds = [kind for kind in every_error() if kind.exit_code == code]
        words = EXIT_WORDS.get(code) or " ".join(
            (inspect.getdoc(kind) or "").split("\n")[0] for kind in kinds[:1]
        )
        rows.append(
            (str(int(code)), f"`{code.name}`", ", ".join(f"`{kind.__name__}`" for kind in kinds), words)
        )
    return "\n".join([NOTE, EXIT_HEAD, table(("code", "name", "errors", "meaning"), rows)])


def every_error() -> list[type[NarthexError]]:
    """The error tree, flat."""
    found = [errors.NarthexError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    """Write the pages, take away those of causes that are no more; with ``--check`` name the stale ones."""
    check = "--check" in words
    texts = pages()
    gone = [path for path in FOLDER.glob("causes/*.md") if f"causes/{path.name}" not in texts]
    stale = [f"causes/{path.name}" for path in gone]
    for name, text in texts.items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"stale in docs: {', '.join(stale)}; run «make docs»\n")
        return 1
    for path in gone:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
