"""``narthex replay``: one's own requests through the gateway's scheduler again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from narthex.cli.options import json_option

if TYPE_CHECKING:
    from narthex.gateway.replay.course import Course
    from narthex.gateway.replay.replay import Replay

SHARES = 12  # clients in the table; --json has them all


@click.command()
@click.argument("log", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of [gateway] to try, as starvation=30s; may be given several times.",
)
@json_option
def command(log: Path | None, changes: tuple[str, ...], as_json: bool) -> None:
    """What waited, was loaded and was lost in a log of the gateway, and what another setting would do.

    LOG is a request log of «narthex serve», or a folder with some; without it, your own. The same requests
    come at the same times and take as long as they took; loads take as long as the log's. Nothing is asked
    of an engine.
    """
    import msgspec

    from narthex.gateway.replay.replay import replay

    found = replay(log, changes)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    click.echo("\n".join(_page(found)))
    for gap in found.gaps:
        click.echo(f"narthex: {gap}", err=True)


def _page(found: Replay) -> list[str]:
    from narthex.units import format_count, format_duration
    from narthex.views.table import table

    courses = [("as it was", found.happened), ("replayed", found.replayed)]
    if found.tried is not None:
        courses.append((", ".join(found.changes), found.tried))
    rows = [[name, *(cell(course) for _, course in courses)] for name, cell in _ROWS]
    lines = [
        f"{format_count(found.happened.requests, 'request')} in {format_duration(found.span_s)}.",
        "",
        table(["", *(name for name, _ in courses)], rows, right="l" + "r" * len(courses)),
        "",
        "By client, waited in all / GPU time lost by swaps it caused:",
        table(["client", *(name for name, _ in courses)], _shares([course for _, course in courses])),
    ]
    if found.tried is None:
        lines += ["", "Try a setting: narthex replay --set starvation=30s --set residency=20s"]
    return lines


def _shares(courses: Sequence[Course]) -> list[list[str]]:
    from narthex.units import format_duration

    names = list(dict.fromkeys(share.client for course in courses for share in course.shares))
    rows = []
    for name in names[:SHARES]:
        cells = []
        for course in courses:
            share = next((one for one in course.shares if one.client == name), None)
            cells.append(
                "-"
                if share is None
                else f"{format_duration(share.waited_s)} / {format_duration(share.lost_s)}"
            )
        rows.append([name or "(nobody)", *cells])
    return rows


def _seconds(value: float) -> str:
    from narthex.units import format_duration

    return format_duration(value)


_ROWS: tuple[tuple[str, Callable[[Course], str]], ...] = (
    ("answered", lambda course: str(course.answered)),
    ("refused or given up", lambda course: str(course.refused)),
    ("answered by another", lambda course: str(course.instead)),
    ("waited, median", lambda course: _seconds(course.waited_median_s)),
    ("waited, 95 of 100 less than", lambda course: _seconds(course.waited_95_s)),
    ("waited at most", lambda course: _seconds(course.waited_worst_s)),
    ("loads", lambda course: str(course.loads)),
    ("of them swaps", lambda course: str(course.swaps)),
    ("unloads", lambda course: str(course.unloads)),
    ("GPU time lost by swaps", lambda course: _seconds(course.lost_s)),
)
