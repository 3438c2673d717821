"""``narthex doctor``: name the cause, show the evidence, give the way out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from narthex.cli.options import json_option, offer_files
from narthex.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from narthex.doctor.bundle import Examined
    from narthex.doctor.finding import Diagnosis
    from narthex.doctor.rule import Rule

_LOGS = "--logs"


class DoctorGroup(click.Group):
    """A group that also runs by itself, and whose ``--logs`` takes any number of files."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--logs a b`` is read as ``--logs a --logs b``, up to the next option."""
        return super().parse_args(ctx, _spread(args, strict=not ctx.resilient_parsing))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Behind ``--logs FILE`` come more files, and no verb."""
        if ctx.params.get("logs") and not incomplete.startswith("-"):
            return offer_files(ctx, self.params[0], incomplete)
        return super().shell_complete(ctx, incomplete)


def _spread(args: Sequence[str], strict: bool) -> list[str]:
    """``strict``: a ``--logs`` without any file is refused; while Tab completes it is not finished yet."""
    spread: list[str] = []
    files: int | None = None  # behind the last --logs so far; None where another word ended it
    for word in (*args, None):
        if files is not None:
            if word is not None and (word == "-" or not word.startswith("-")):
                spread += [_LOGS, word]
                files += 1
                continue
            if strict and not files:
                raise click.BadOptionUsage(_LOGS, f"Option '{_LOGS}' needs a file.")
            files = None
        if word == _LOGS:
            files = 0
        elif word is not None:
            spread.append(word)
    return spread


def offer_causes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tab completes the names of causes."""
    from click.shell_completion import CompletionItem

    from narthex.doctor.rules import RULES

    return [CompletionItem(rule.slug, help=rule.title) for rule in RULES if rule.slug.startswith(incomplete)]


class Asked(NamedTuple):
    """The options."""

    case: str | None
    logs: tuple[str, ...]
    since: str | None
    only: tuple[str, ...]
    listing: bool
    watching: bool
    fix: bool
    yes: bool
    as_json: bool


_EXAMPLES = """\b
Examples:
  narthex doctor                          this machine, now
  narthex doctor --logs ollama.log        a log that somebody sent
  narthex doctor explain queue_full       the page of one cause
  narthex doctor bundle                   an archive for a bug report
"""


@click.group(cls=DoctorGroup, invoke_without_command=True, epilog=_EXAMPLES)
@click.option(
    "--evidence",
    "case",
    metavar="CASE",
    shell_complete=offer_files,
    help="Diagnose this case, a JSON file, and not this machine; - reads it from a pipe.",
)
@click.option(
    _LOGS,
    "logs",
    metavar="FILE...",
    multiple=True,
    shell_complete=offer_files,
    help="Diagnose these log files, of any kind, and not this machine; with --watch: follow these.",
)
@click.option("--since", metavar="TIME", help='Read logs from then on: 2h, "10 min ago", 2026-11-20.')
@click.option(
    "--only",
    metavar="CAUSE",
    multiple=True,
    shell_complete=offer_causes,
    help="Ask only for this cause; may be given several times.",
)
@click.option("--list", "listing", is_flag=True, help="List the causes that can be named.")
@click.option("--watch", "watching", is_flag=True, help="Follow the logs, and tell a failure when it comes.")
@click.option("--fix", is_flag=True, help="Take the steps that are safe, one at a time, after asking.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask for what is safe.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int | None:
    """Name the cause of a failure, show the evidence, give the way out.

    Everything that is found on this machine is looked at: its GPUs, containers, services and logs. Nothing
    is changed, and nothing leaves the machine. Exit code 0: nothing is wrong; 1: something is; 2: it could
    not run.
    """
    asked = Asked(**options)
    if ctx.invoked_subcommand is not None:
        if any(asked):
            raise UsageError(
                f"These options are not for «narthex doctor {ctx.invoked_subcommand}».",
                hint=f"Put its own options behind it: narthex doctor {ctx.invoked_subcommand} --help",
            )
        return None
    _check(asked)
    return int(_run(asked))


@command.command()
@click.argument("cause", metavar="CAUSE", shell_complete=offer_causes)
@json_option
def explain(cause: str, as_json: bool) -> None:
    """The page of one cause: meaning, signature, how to be sure, fix, verify, look-alikes."""
    from narthex.cli.examination import rule_named
    from narthex.views.cause_page import page_data, page_text
    from narthex.views.diagnosis import as_json as to_json
    from narthex.views.ink import Ink

    rule = rule_named(cause)
    click.echo(to_json(page_data(rule)) if as_json else page_text(rule, Ink.of(sys.stdout)))


@command.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def bundle(file: Path | None) -> None:
    """Write an archive for a bug report, without what is private to you.

    It holds logs, readings and the diagnosis. Keys, names, addresses and prompts are taken out. FILE is
    narthex-doctor-DATE.tar.gz in this folder by default; a file that is there is not overwritten.
    """
    from narthex.cli.bundling import write

    write(file)


def _check(asked: Asked) -> None:
    """Options that exclude each other, each refused with one sentence."""
    files = asked.case is not None or bool(asked.logs)
    rules = (
        (asked.case is not None and bool(asked.logs), "--evidence and --logs are two ways: give one."),
        (files and asked.fix, "--fix is for this machine: a case or a log file has nothing to be fixed."),
        (asked.yes and not asked.fix, "--yes goes with --fix."),
        (asked.fix and asked.as_json, "--fix talks with you: it has no --json."),
        (asked.fix and asked.watching, "--fix and --watch are two ways: give one."),
        (asked.case is not None and asked.watching, "A case does not grow: --watch follows logs."),
        (files and asked.since is not None, "--since is for this machine: a file is read as it is."),
        (asked.watching and asked.since is not None, "--watch tells what is new: it has no --since."),
        (
            asked.listing and any(asked._replace(listing=False, as_json=False)),
            "--list goes with --json and nothing else.",
        ),
    )
    for wrong, message in rules:
        if wrong:
            raise UsageError(message, hint="«narthex doctor --help» tells what each is for.")


def _run(asked: Asked) -> ExitCode:
    from narthex.cli.examination import live, of_case, of_logs, rules_named

    if asked.listing:
        _list(asked.as_json)
        return ExitCode.OK
    rules = rules_named(asked.only)
    if asked.watching:
        from narthex.cli.watching import watch_logs

        return watch_logs(asked.logs, rules, as_json=asked.as_json)
    if asked.case is not None:
        return _tell(of_case(Path(asked.case), rules), asked)
    if asked.logs:
        return _tell(of_logs(asked.logs, rules), asked)
    since = None
    if asked.since is not None:
        from narthex.cli.since import parse_since

        since = parse_since(asked.since)
    return _on_this_machine(live(since, rules), asked)


def _tell(diagnosis: Diagnosis, asked: Asked) -> ExitCode:
    from narthex.views.diagnosis import diagnosis_json, diagnosis_text
    from narthex.views.ink import Ink

    if asked.as_json:
        click.echo(diagnosis_json(diagnosis))
    else:
        click.echo(diagnosis_text(diagnosis, Ink.of(sys.stdout), asked.only))
    return ExitCode.OK if diagnosis.healthy else ExitCode.FAILURE


def _on_this_machine(examined: Examined, asked: Asked) -> ExitCode:
    """What was found goes to the journal before anything is tried."""
    from narthex.doctor.record import Record

    with Record(_talk) as record:
        record.findings(examined.diagnosis.findings)
        code = _tell(examined.diagnosis, asked)
        if asked.fix and code is not ExitCode.OK:
            from narthex.cli.fixing import fix

            code = fix(examined.diagnosis, record, yes=asked.yes)
    return code


def _talk(text: str) -> None:
    click.echo(f"narthex: {text}", err=True)


def _list(as_json: bool) -> None:
    from narthex.doctor.rule import AREAS
    from narthex.doctor.rules import RULES
    from narthex.views.diagnosis import as_json as to_json
    from narthex.views.table import table

    if as_json:
        click.echo(to_json([_summary(rule) for rule in RULES]))
        return
    parts = []
    for area, title in AREAS.items():
        rows = [(rule.slug, rule.title) for rule in RULES if rule.area == area]
        parts.append(f"{title}\n{table(('cause', 'what it is'), rows, indent='  ')}" if rows else "")
    click.echo("\n\n".join(part for part in parts if part))


def _summary(rule: Rule) -> dict[str, str]:
    return {"cause": rule.slug, "title": rule.title, "area": rule.area}
