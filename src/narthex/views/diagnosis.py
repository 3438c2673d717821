"""A diagnosis as JSON and as text for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from narthex import __version__
from narthex.doctor.finding import SURE, Command, Diagnosis, Finding, Quote, Remedy, Severity, Skipped
from narthex.doctor.rules import RULES
from narthex.models.header import printable
from narthex.units import format_count, sentence
from narthex.views.ink import Ink

QUOTED = 3  # lines of evidence a finding shows; JSON has them all
ALIKE = 2  # of them such as begin alike but for numbers
QUOTE_ROWS = 4  # rows of a terminal that one quoted line may take
STEPS = 6
FACTS = 12
SCREEN = 40  # rows after which the beginning has left most terminals
_COLOURS = {
    Severity.CRITICAL: "red",
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
}
_ROOT = re.compile(r"\broot\b", re.IGNORECASE)
_MORE = (
    "What tells most: Ollama's own log from its start on (journalctl -u ollama, docker logs ollama), the "
    "kernel's (dmesg), nvidia-smi, and what the client said."
)
_PROSE = re.compile(r"[A-Z][a-z]")  # «Set …», «In OpenWebUI: …»: nobody copies it into a shell
_HOST = "host"  # the source of what collectors read
_VARIES = re.compile(r"\d+|\b[0-9a-f]{8,}\b|(?<=sha256-)[0-9a-f]+")
_OBEYED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_OPENING = 80  # characters by which two lines are alike
_TITLES = {rule.slug: rule.title for rule in RULES}
_SURENESS = ((0.9, "certain"), (0.75, "very likely"), (SURE, "likely"), (0.3, "may be"), (0.0, "a guess"))


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """The documented form; fields may be added, never changed (``docs/reference/json.md``)."""
    body = msgspec.to_builtins(diagnosis)
    return {**body, "healthy": diagnosis.healthy, "version": __version__}


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """The same as text."""
    return as_json(diagnosis_data(diagnosis))


def as_json(value: Any) -> str:
    """Any data as a JSON document, safe to be looked at: no control characters, and none that turn text."""
    return safe_json(msgspec.json.format(msgspec.json.encode(value), indent=2))


def safe_json(document: bytes) -> str:
    """The same document; what a terminal would obey is escaped. JSON itself escapes the first 32 only."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", document.decode())


def verdict(diagnosis: Diagnosis) -> str:
    """The whole answer in one line."""
    trouble = [one for one in diagnosis.findings if one.is_trouble and not one.consequence_of]
    if trouble:
        more = len(trouble) - 1
        return f"{sentence(headline(trouble[0]))}{f' And {more} more.' if more else ''}"
    if any(one.is_trouble for one in diagnosis.findings):
        return sentence(headline(next(one for one in diagnosis.findings if one.is_trouble)))
    harmless = len(diagnosis.findings)
    known = f" {format_count(harmless, 'thing')} to know, all harmless." if harmless else ""
    if not diagnosis.facts and not harmless:
        return "Nothing wrong was found, but little could be seen."
    return f"Nothing is wrong, as far as can be seen.{known}"


def headline(finding: Finding) -> str:
    """Its title; that of a suspicion sounds like one."""
    title = _clean(finding.title).rstrip(".")
    return title if finding.confidence >= SURE else f"Maybe: {title}"


def sureness(finding: Finding) -> str:
    """«very likely, 80 %»."""
    words = next(words for least, words in _SURENESS if finding.confidence >= least)
    return f"{words}, {finding.confidence:.0%}".replace("%", " %")


def diagnosis_text(diagnosis: Diagnosis, ink: Ink, only: Sequence[str] = ()) -> str:
    """The verdict, each root with what follows from it, then what is well, then what could not be told.
    ``only``: the causes that were asked for, where it was not all."""
    answer = f"Not found: {', '.join(only)}." if only and not diagnosis.findings else verdict(diagnosis)
    parts = ["\n".join([ink.strong(ink.wrap(answer)), *_others(diagnosis, ink)])]
    number = 0
    hurting = {one.consequence_of or one.cause for one in diagnosis.findings if one.is_trouble}
    harmless = [one for one in diagnosis.findings if (one.consequence_of or one.cause) not in hurting]
    for finding in (one for one in diagnosis.findings if one not in harmless):
        if finding.consequence_of:
            parts.append(_consequence(finding, ink))
        else:
            number += 1
            parts.append(finding_text(finding, ink, number))
    if harmless:
        parts.append(ink.strong("Harmless, and good to know:"))
        parts += [_harmless(finding, ink) for finding in harmless]
    if not (diagnosis.findings or diagnosis.facts or only):
        parts.append(ink.wrap(_MORE))
    parts += [_facts(diagnosis, ink), *_skipped(diagnosis.skipped, ink)]
    text = "\n\n".join(part for part in parts if part)
    return text if len(text.splitlines()) <= SCREEN else text + _in_short(diagnosis, ink)


def finding_text(finding: Finding, ink: Ink, number: int | None = None) -> str:
    """One finding with its evidence, its rivals, and the way out."""
    head = f"{number}. " if number is not None else ""
    colour = _COLOURS[finding.severity]
    about = f" ({_clean(finding.about)})" if finding.about and finding.about not in finding.title else ""
    marks = f"{finding.severity.value} · {sureness(finding)} · {finding.cause}"
    lines = [
        ink.strong(ink.wrap(f"{headline(finding)}{about}", head)),
        f"   {ink.tint(marks, colour)}",
        "",
        ink.wrap(_clean(finding.why), "   "),
        "",
        *_evidence(finding.evidence, ink, "   "),
    ]
    lines += ["", *_remedy(finding.remedy, ink, "   ")]
    if finding.ruled_out:
        lines.append("")
        lines += [
            ink.wrap(f"Not «{_TITLES.get(one.cause, one.cause)}»: {_clean(one.why)}", "   ", "     ")
            for one in finding.ruled_out
        ]
    return "\n".join(lines)


def command_marks(command: Command) -> str:
    """What has to be known before one types it."""
    marks = ["safe"] if command.safe else ["interrupts"]
    if command.root:
        marks.append("needs root")
    return ", ".join(marks)


def _others(diagnosis: Diagnosis, ink: Ink) -> Iterator[str]:
    """The further causes by name, as a table of contents."""
    roots = [one for one in diagnosis.findings if not one.consequence_of]
    hurting = {one.consequence_of or one.cause for one in diagnosis.findings if one.is_trouble}
    for number, finding in enumerate((one for one in roots if one.cause in hurting), 1):
        if number > 1:
            yield ink.wrap(headline(finding), f"   {number}. ")


def _in_short(diagnosis: Diagnosis, ink: Ink) -> str:
    """The answer again, where a terminal shows the end of a long text, and what to do first."""
    if diagnosis.healthy:
        return ""
    first = next((one for one in diagnosis.findings if not one.consequence_of), diagnosis.findings[0])
    steps = [command.text.splitlines()[0] for command in first.remedy.commands[:1]]
    words = ink.strong(ink.wrap(f"In short: {verdict(diagnosis)}"))
    return "\n\n" + "\n".join([words, *(f"   First: {_clean(step)}" for step in steps)])


def _consequence(finding: Finding, ink: Ink) -> str:
    marks = f"{finding.severity.value} · {sureness(finding)} · {finding.cause}"
    lines = [
        ink.wrap(f"Because of it: {headline(finding)}", "   → ", "     "),
        f"     {ink.tint(marks, _COLOURS[finding.severity])}",
        ink.wrap(_clean(finding.why), "     "),
        *_evidence(finding.evidence[:1], ink, "     "),
    ]
    return "\n".join(lines)


def _harmless(finding: Finding, ink: Ink) -> str:
    """In brief: nobody has to do anything."""
    lines = [
        ink.wrap(f"{headline(finding)} ({finding.cause})", "   · ", "     "),
        ink.wrap(_clean(finding.why), "     "),
        *_evidence(finding.evidence[:1], ink, "     "),
        "     " + ink.faint(f"narthex doctor explain {finding.cause}"),
    ]
    return "\n".join(lines)


def _evidence(quotes: Sequence[Quote], ink: Ink, indent: str) -> Iterator[str]:
    shapes: Counter[str] = Counter()
    shown: list[Quote] = []
    for quote in quotes:
        shape = _VARIES.sub("#", quote.text)[:_OPENING]
        shapes[shape] += 1
        if shapes[shape] <= ALIKE and len(shown) < QUOTED:
            shown.append(quote)
    for quote in shown:
        place = f"{_clean(quote.source)}:{quote.line}{_when(quote.time)}"
        yield indent + ink.faint(f"a reading of the machine ({place})" if quote.source == _HOST else place)
        yield from _quoted(quote.text, ink, f"{indent}│ ")
    if len(quotes) > len(shown):
        yield indent + ink.faint(
            f"and {format_count(len(quotes) - len(shown), 'line')} more (--json has them all)"
        )


def _when(time: str) -> str:
    """The moment as the log has it; with its age in days where it is old, so that nobody takes it for new."""
    if not time:
        return ""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return f"  {time}"
    days = (datetime.now(UTC) - moment).days if moment.tzinfo else 0
    return f"  {time}" + (f" ({format_count(days, 'day')} ago)" if days > 0 else "")


def _quoted(text: str, ink: Ink, indent: str) -> list[str]:
    """The line as it stands, only broken; of a very long one the beginning and the end, where errors are."""
    width = max(20, ink.width - len(indent) - 2)  # room for « …»
    rows = textwrap.wrap(_clean(text), width, break_on_hyphens=False, replace_whitespace=False)
    if len(rows) > QUOTE_ROWS:
        rows = [f"{rows[0]} …", *rows[1 - QUOTE_ROWS :]]
    return [indent + row for row in rows] or [indent.rstrip()]


def _remedy(remedy: Remedy, ink: Ink, indent: str) -> list[str]:
    lines = [ink.wrap(f"What to do: {_clean(remedy.text)}", indent)]
    lines += [
        line
        for number, command in enumerate(remedy.commands[:STEPS], 1)
        for line in command_lines(command, ink, f"{indent}{number}. ")
    ]
    if len(remedy.commands) > STEPS:
        more = format_count(len(remedy.commands) - STEPS, "step")
        lines.append(indent + ink.faint(f"and {more} more (--json has them all)"))
    if remedy.verify or remedy.verify_commands:
        check = _clean(remedy.verify) or "Run this and look."
        lines.append(ink.wrap(f"It helped when: {check}", indent))
        texts = [_clean(command.text) for command in remedy.verify_commands]
        lines += [ink.wrap(text, indent) if _PROSE.match(text) else f"{indent}$ {text}" for text in texts]
    return lines


def command_lines(command: Command, ink: Ink, first: str) -> Iterator[str]:
    """A step: its marks, the command in one line so that it can be copied, its note. Words are wrapped."""
    rest = " " * len(first)
    colour = "red" if command.root else "green" if command.safe else "yellow"
    marks = f"[{command_marks(command)}]"
    lines = [_clean(line) for line in command.text.splitlines()]
    if _PROSE.match(command.text):
        words = ink.wrap(f"{marks} {' '.join(lines)}", first)
        yield words.replace(marks, ink.tint(marks, colour), 1)
    elif len(lines) == 1 and len(first) + len(marks) + 1 + len(lines[0]) <= ink.width:
        yield f"{first}{ink.tint(marks, colour)} {lines[0]}"
    else:
        yield first + ink.tint(marks, colour)
        yield from (rest + line for line in lines)
    if command.note:
        yield ink.faint(ink.wrap(f"({_clean(command.note)})", rest))


def _facts(diagnosis: Diagnosis, ink: Ink) -> str:
    if not diagnosis.facts:
        return ""
    shown = diagnosis.facts if diagnosis.healthy else diagnosis.facts[:FACTS]
    lines = [ink.strong("As it should be:")]
    lines += [ink.wrap(_clean(fact.text), "   ✓ ", "     ") for fact in shown]
    if len(shown) < len(diagnosis.facts):
        rest = len(diagnosis.facts) - len(shown)
        lines.append("     " + ink.faint(f"and {format_count(rest, 'thing')} more (--json)"))
    return "\n".join(lines)


def _skipped(skipped: Sequence[Skipped], ink: Ink) -> Iterator[str]:
    """Those with one reason are told together; apart, what root could tell."""
    reasons: dict[str, list[str]] = {}
    for one in skipped:
        why = one.why.removeprefix("can't tell, because ")
        reasons.setdefault(f"{why}{' (a fault of narthex)' if one.broke else ''}", []).append(one.what)
    rooted = {why: names for why, names in reasons.items() if _ROOT.search(why)}
    others = {why: names for why, names in reasons.items() if why not in rooted}
    for title, group in (("What could not be told:", others), ("What root could tell:", rooted)):
        if group:
            rows = [_reason(why, names, ink) for why, names in group.items()]
            yield "\n".join([ink.strong(title), *rows])


def _reason(why: str, all_names: Sequence[str], ink: Ink) -> str:
    names = list(dict.fromkeys(all_names))
    told = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return ink.wrap(f"{_clean(told)}: {_clean(why)}", "   – ", "     ")


def _clean(text: str) -> str:
    """Safe for a terminal: a log may hold anything."""
    return printable(text.replace("\t", " ").replace("\n", " ").rstrip("\r"))
