"""``narthex journal``: what was tried, measured and decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from narthex.cli.options import json_option
from narthex.errors import UsageError
from narthex.journal.export import (
    event_document,
    finding_document,
    journal_document,
    study_document,
    trial_document,
)
from narthex.journal.journal import Journal
from narthex.journal.rows import DecisionRow, FindingRow, GatewayEventRow, NoteRow, SoakRow, StudyRow
from narthex.trials.trial import TrialRecord
from narthex.units import format_count, format_loads

MANUAL = "manual"  # the word for what belongs to no study: trials by hand, soaks, notes


@click.group()
def command() -> None:
    """What was tried, measured and decided."""


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All studies, newest first."""
    with _open() as journal:
        rows = journal.studies()
        loose = any(_loose(journal).values())
        found = len(journal.findings())
    if as_json:
        _print_json([_summary(row) for row in rows])
    elif not rows:
        click.echo("The journal holds no study yet. «narthex tune MODEL» begins one.", err=True)
    else:
        click.echo(_table(rows))
    if loose and not as_json:
        click.echo(f"Trials by hand and notes of no study: «narthex journal show {MANUAL}».", err=True)
    if found and not as_json:
        words = format_count(found, "finding")
        click.echo(f"{words} of the doctor: «narthex journal findings».", err=True)


@command.command()
@click.argument("study")
@json_option
def show(study: str, as_json: bool) -> None:
    """One study: its steps and trials in time order. STUDY is an id, the beginning of one, or «last».

    «manual» shows what belongs to no study: trials by hand, soaks and notes.
    """
    with _open() as journal:
        if study == MANUAL:
            _show_loose(journal, as_json)
            return
        row = journal.find_study(study)
        if as_json:
            _print_json(study_document(journal, row))
        else:
            click.echo("\n".join([*_head(row), "", *_study_history(journal, row), "", _end(row)]))


@command.command()
@click.argument("cause", required=False)
@json_option
def findings(cause: str | None, as_json: bool) -> None:
    """What the doctor found on this machine, what was tried, and what came of it; newest first.

    CAUSE narrows it down to one: a slug, as «narthex doctor --list» shows them.
    """
    with _open() as journal:
        rows = journal.findings(cause)
    if as_json:
        _print_json([finding_document(row) for row in rows])
    elif rows:
        click.echo("\n".join(line for row in rows for line in _finding(row)))
    else:
        which = f"no finding «{cause}»" if cause else "no finding yet"
        click.echo(f"The journal holds {which}. «narthex doctor» looks for what is wrong.", err=True)


@command.command()
@click.argument("model", required=False)
@click.option("--last", "limit", type=click.IntRange(1), default=50, show_default=True, help="So many.")
@json_option
def gateway(model: str | None, limit: int, as_json: bool) -> None:
    """What the gateway loaded, unloaded and could not load, and for whom; the newest last.

    MODEL narrows it down to one model.
    """
    with _open() as journal:
        rows = journal.gateway_events(model=model, limit=limit)
    if as_json:
        _print_json([event_document(row) for row in rows])
    elif rows:
        click.echo("\n".join(_event(row) for row in rows))
    else:
        which = f"nothing about «{model}»" if model else "nothing yet"
        click.echo(f"The gateway wrote down {which}. «narthex serve» starts it.", err=True)


@command.command()
@click.argument("study", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole journal, not one study.")
@json_option
def export(study: str | None, everything: bool, as_json: bool) -> None:
    """One study, or all of the journal, as one JSON document; --json may be left out."""
    if everything == (study is not None):
        raise UsageError("Export one study or everything.", hint="Give a STUDY (an id or «last»), or --all.")
    with _open() as journal:
        _print_json(journal_document(journal, None if study is None else [journal.find_study(study)]))


@command.command()
@click.argument("text")
@click.option(
    "--study", metavar="STUDY", help="The study it is about: an id, the beginning of one, or «last»."
)
def note(text: str, study: str | None) -> None:
    """Add a remark of your own."""
    if not text.strip():
        raise UsageError("The note is empty.", hint='Write it between quotes: narthex journal note "…".')
    with _open() as journal:
        row = journal.find_study(study) if study is not None else None
        journal.append_note(text.strip(), row.id if row else None)
    click.echo("Noted." if row is None else f"Noted on study {row.id}.", err=True)


def _open() -> Journal:
    journal = Journal.open()
    for gap in journal.gaps:
        click.echo(f"narthex: {gap}", err=True)
    return journal


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _event(row: GatewayEventRow) -> str:
    """When, what, which model; then for whom and in words."""
    from narthex.views.text import wrap

    whom = f" for {row.client}" if row.client else ""
    cause = f" ({row.cause})" if row.cause else ""
    text = f": {row.text}" if row.text else ""
    return wrap(f"{_moment(row.at)}  {row.kind} {row.model}{whom}{cause}{text}", indent=10)


def _finding(row: FindingRow) -> list[str]:
    """When, what, how sure; then each step that was tried and what the check said."""
    from narthex.views.text import wrap

    head = f"{_moment(row.at)}  {row.severity}: {row.title} ({row.cause}, {row.confidence:.0%})"
    tried = [(one.at, f"tried: {one.step}: {one.outcome}") for one in row.remedies]
    tried += [(one.at, f"then: {one.text}") for one in row.checks]
    return [
        wrap(head, indent=21),
        *(" " * 21 + wrap(text, indent=23) for _, text in sorted(tried, key=lambda step: step[0])),
    ]


def _goal(row: StudyRow) -> str | None:
    """The question belongs to a later layer; its goal is read as plain JSON."""
    question = msgspec.json.decode(row.question)
    goal = question.get("goal") if isinstance(question, dict) else None
    return goal if isinstance(goal, str) else None


def _summary(row: StudyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "finished": row.finished,
        "model": row.model.name if row.model else None,
        "model_path": row.model.path if row.model else None,
        "goal": _goal(row),
        "engine": row.engine_key,
        "trials": row.trials,
        "engine_loads": row.loads,
        "verdict": row.verdict,
    }


def _model_name(row: StudyRow) -> str:
    return row.model.name if row.model else "recorded measurements"


def _verdict(row: StudyRow) -> str:
    return row.verdict if row.verdict is not None else "not finished: start the same «tune» again to go on"


def _table(rows: list[StudyRow]) -> str:
    from narthex.views.table import table

    cells = [
        (row.id, _model_name(row), _goal(row) or "?", str(row.loads), _short(_verdict(row))) for row in rows
    ]
    return table(("study", "model", "goal", "loads", "verdict"), cells, right="lllr")


def _short(text: str, width: int = 90) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _head(row: StudyRow) -> list[str]:
    lines = [f"study {row.id} · {_model_name(row)} · goal {_goal(row) or '?'} · {format_loads(row.loads)}"]
    lines.append(f"begun {_moment(row.started_at)} · engine {row.engine_key}")
    if row.argv:
        lines.append("command: " + " ".join(row.argv))
    return lines


def _loose(journal: Journal) -> dict[str, list[Any]]:
    """What belongs to no study."""
    return {
        "trials": journal.trials(None),
        "soaks": [row for row in journal.soaks() if row.study is None],
        "notes": [row for row in journal.notes() if row.study is None],
    }


def _show_loose(journal: Journal, as_json: bool) -> None:
    found = _loose(journal)
    if as_json:
        _print_json({**found, "trials": [trial_document(record) for record in found["trials"]]})
    elif any(found.values()):
        click.echo("\n".join(_history(**found, clock=_moment)))
    else:
        click.echo("The journal holds no trial by hand and no note of no study.", err=True)


def _study_history(journal: Journal, row: StudyRow) -> list[str]:
    return _history(
        journal.trials(row.id), journal.soaks(row.id), journal.notes(row.id), journal.decisions(row.id)
    )


def _history(
    trials: Sequence[TrialRecord],
    soaks: Sequence[SoakRow],
    notes: Sequence[NoteRow],
    decisions: Sequence[DecisionRow] = (),
    *,
    clock: Callable[[float], str] | None = None,
) -> list[str]:
    """Steps, trials, soaks and notes, each at the moment it was written, with its reasons."""
    from narthex.views.text import observation_words, soak_words, wrap

    clock = clock or _clock
    events: list[tuple[float, str]] = []
    for step in decisions:
        evidence = f" [evidence: {step.evidence}]" if step.evidence else ""
        knobs = f" → {step.knobs.describe()}" if step.knobs else ""
        events.append((step.at, f"{step.kind}: {step.text}{knobs}{evidence}"))
    for record in trials:
        events.append(
            (
                _ended(record),
                f"trial ({record.trial.purpose}) {record.trial.knobs.describe()}: "
                + observation_words(record.observation),
            )
        )
    events += [(one.at, f"soak {one.knobs.describe()}: {soak_words(one.report)}") for one in soaks]
    events += [(remark.at, f"note: {remark.text}") for remark in notes]
    events.sort(key=lambda event: event[0])
    return [wrap(f"{clock(at)}  {text}", indent=10) for at, text in events]


def _ended(record: TrialRecord) -> float:
    return record.started_at + record.seconds


def _end(row: StudyRow) -> str:
    from narthex.views.text import wrap

    ended = "" if row.ended_at is None else f"ended {_moment(row.ended_at)}: "
    return wrap(f"{ended}{_verdict(row)}")


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
