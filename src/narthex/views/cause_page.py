"""The page of a cause: as text for ``narthex doctor explain``, as Markdown for ``docs/causes/``.

Every page has the same little table: meaning, signature, how to be sure, fix, verify, look-alikes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from narthex.doctor.finding import Command
from narthex.doctor.rule import AREAS, Rule
from narthex.views.diagnosis import command_lines, command_marks
from narthex.views.ink import Ink

ROWS = ("Meaning", "Signature", "How to be sure", "Fix", "Verify", "Look-alikes")


def page_text(rule: Rule, ink: Ink) -> str:
    """For a terminal."""
    lines = [ink.strong(ink.wrap(f"{rule.title} ({rule.slug})")), ink.faint(AREAS[rule.area]), ""]
    lines += _paragraph("Meaning", rule.meaning, ink)
    lines += [ink.strong("Signature"), *(f"  │ {line}" for line in rule.signature), ""]
    lines += _paragraph("How to be sure", rule.certain, ink)
    lines += [ink.strong("Fix"), ink.wrap(rule.remedy.text, "  ")]
    for number, command in enumerate(rule.remedy.commands, 1):
        lines += command_lines(command, ink, f"  {number}. ")
    lines += ["", ink.strong("Verify")]
    if rule.remedy.verify:
        lines.append(ink.wrap(rule.remedy.verify, "  "))
    lines += [f"  $ {command.text}" for command in rule.remedy.verify_commands]
    if rule.look_alikes:
        lines += ["", ink.strong("Look-alikes")]
        lines += [ink.wrap(f"{row.cause}: {row.how}", "  ", "    ") for row in rule.look_alikes]
    return "\n".join(lines)


def page_data(rule: Rule) -> dict[str, Any]:
    """For ``--json``; fields may be added, never changed."""
    return {
        "cause": rule.slug,
        "title": rule.title,
        "area": rule.area,
        "meaning": rule.meaning,
        "signature": list(rule.signature),
        "certain": rule.certain,
        "remedy": msgspec.to_builtins(rule.remedy),
        "look_alikes": [{"cause": row.cause, "how": row.how} for row in rule.look_alikes],
        "explains": list(rule.explains),
    }


def page_markdown(rule: Rule, known: Collection[str]) -> str:
    """``docs/causes/SLUG.md``; look-alikes that have a page of their own are linked."""
    rows = {
        "Meaning": _prose(rule.meaning),
        "Signature": "<br>".join(_code(line) for line in rule.signature),
        "How to be sure": _prose(rule.certain),
        "Fix": "<br>".join([_prose(rule.remedy.text), *_steps(rule.remedy.commands)]),
        "Verify": "<br>".join(
            part
            for part in (
                _prose(rule.remedy.verify),
                *(_code(row.text) for row in rule.remedy.verify_commands),
            )
            if part
        ),
        "Look-alikes": "<br>".join(
            f"{_link(row.cause, known)}: {_prose(row.how)}" for row in rule.look_alikes
        ),
    }
    assert tuple(rows) == ROWS
    table = ["| | |", "|---|---|", *(f"| **{name}** | {_cell(text) or '–'} |" for name, text in rows.items())]
    where = f"`{rule.slug}` · [{AREAS[rule.area]}](README.md)"
    return "\n".join([f"# {rule.title}\n", f"{where}\n", *table]) + "\n"


def index_markdown(rules: Sequence[Rule], areas: Mapping[str, str] = AREAS) -> str:
    """``docs/causes/README.md``: every cause, by area."""
    lines = [
        "# Causes\n",
        "What `narthex doctor` can name. `narthex doctor explain SLUG` shows the same pages on a terminal.",
    ]
    for area, title in areas.items():
        lines.append(f"\n## {title}\n")
        lines += [f"- [{rule.title}]({rule.slug}.md) `{rule.slug}`" for rule in rules if rule.area == area]
    return "\n".join(lines) + "\n"


def _paragraph(title: str, text: str, ink: Ink) -> list[str]:
    return [ink.strong(title), ink.wrap(text, "  "), ""]


def _steps(commands: Sequence[Command]) -> list[str]:
    return [
        f"{number}. *{command_marks(command)}*: {_code(command.text)}"
        + (f" ({_prose(command.note)})" if command.note else "")
        for number, command in enumerate(commands, 1)
    ]


def _code(text: str) -> str:
    """A line as code, whatever it holds; line breaks become rows of their own."""
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return "<br>".join(f"{fence}{pad}{row}{pad}{fence}" for row in text.splitlines() if row.strip())


def _prose(text: str) -> str:
    """Text of a rule in Markdown: «<model>» is no tag."""
    return text.replace("<", "&lt;")


def _link(cause: str, known: Collection[str]) -> str:
    return f"[{cause}]({cause}.md)" if cause in known else cause


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
