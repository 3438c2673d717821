"""``narthex doctor bundle``: an archive for a bug report, with nothing in it that is nobody's business.

It holds the evidence in a form that ``--evidence`` reads again, the diagnosis of just that, and versions. Of
long logs stay the lines that were quoted, those around other signs, the beginning and the newest lines.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from narthex import __version__
from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Diagnosis, Fact, Skipped
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.redact import Redactor
from narthex.doctor.rule import Rule
from narthex.doctor.sign import Sign
from narthex.units import format_count

SMALL = 200 * 1024  # a log of so many bytes stays whole
MOST = 600 * 1024  # of a longer one so much
_HEAD, _TAIL = 60, 300  # lines
_AROUND = 3  # lines before and after one that is quoted
_LONGEST = 8000  # characters of a line
_VERSIONS = ("ollama.version", "openwebui.version", "docker.version", "driver.module_version", "gpu.memory")


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds, by file name, and what was left out, in sentences."""

    files: dict[str, bytes]
    left_out: tuple[str, ...]
    differs: bool  # the archive alone gives other causes than this machine


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at on this machine, and what it says. ``evidence`` was made from ``texts``."""

    texts: tuple[Text, ...]
    evidence: Evidence
    diagnosis: Diagnosis


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """A text of the archive."""

    kind: str
    name: str
    text: str


def make_bundle(
    examined: Examined, rules: Sequence[Rule], signs: Sequence[Sign], redactor: Redactor
) -> Bundle:
    """Everything that goes into the archive."""
    evidence, diagnosis = examined.evidence, examined.diagnosis
    sources, cuts = [], []
    for text in examined.texts:
        kept = shortened(text, evidence, diagnosis)
        name = redactor.text(text.name)
        if kept.dropped:
            cuts.append(f"{format_count(kept.dropped, 'line')} of {kept.lines} of {name}")
        sources.append(_Source(kind=text.kind, name=name, text=redactor.text(kept.text)))
    clean = _without_names(evidence, sources, signs, redactor)
    again = diagnose(clean, rules)
    body = {
        **msgspec.to_builtins(again),
        "healthy": again.healthy,
        "version": __version__,
        "on_the_machine": [{"cause": row.cause, "confidence": row.confidence} for row in diagnosis.findings],
    }
    replaced = [f"{what}: {count}" for what, count in sorted(redactor.counts.items()) if count]
    left_out = (*cuts, *replaced)
    files = {
        "evidence.json": _json(_case(clean, sources)),
        "diagnosis.json": _json(redactor.value(body)),
        "versions.json": _json(redactor.value(versions(evidence.readings))),
        "README.txt": _readme(left_out).encode(),
    }
    return Bundle(files=files, left_out=left_out, differs=_causes(again) != _causes(diagnosis))


def _without_names(
    evidence: Evidence, sources: Sequence[_Source], signs: Sequence[Sign], redactor: Redactor
) -> Evidence:
    """The evidence as whoever gets the archive has it."""
    return read_evidence(
        [Text(kind=row.kind, name=row.name, data=row.text.encode(errors="replace")) for row in sources],
        signs,
        readings=[_reading(row, redactor) for row in evidence.readings],
        facts=[Fact(text=redactor.text(fact.text)) for fact in evidence.facts],
        skipped=[
            Skipped(what=redactor.text(gap.what), why=redactor.text(gap.why), broke=gap.broke)
            for gap in evidence.skipped
        ],
        live=evidence.live,
    )


def _case(evidence: Evidence, sources: Sequence[_Source]) -> dict[str, Any]:
    """As :mod:`narthex.doctor.reading.case` reads it."""
    return {
        "evidence": {},
        "sources": sources,
        "readings": evidence.readings,
        "facts": evidence.facts,
        "skipped": evidence.skipped,
        "live": evidence.live,
    }


class Shortened(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was cut: how many lines it had, and how many went."""

    text: str
    lines: int
    dropped: int


def shortened(text: Text, evidence: Evidence, diagnosis: Diagnosis) -> Shortened:
    """A long text without the lines that say least. What goes is told where it was."""
    rows = list(_lines(text))
    if sum(map(len, rows)) <= SMALL:
        return Shortened(text="\n".join(rows), lines=len(rows), dropped=0)
    keep = _worth(text.name, len(rows), evidence, diagnosis)
    chosen: set[int] = set()
    room = MOST
    for number in keep:
        if number in chosen or not 1 <= number <= len(rows):
            continue
        room -= min(len(rows[number - 1]), _LONGEST) + 1
        if room < 0:
            break
        chosen.add(number)
    return Shortened(text=_with_gaps(rows, chosen), lines=len(rows), dropped=len(rows) - len(chosen))


def _worth(name: str, count: int, evidence: Evidence, diagnosis: Diagnosis) -> Iterable[int]:
    """Numbers of lines, the ones that tell most first."""
    for finding in diagnosis.findings:
        for quote in finding.evidence:
            if quote.source == name:
                yield from range(quote.line - _AROUND, quote.line + _AROUND + 1)
    yield from range(1, _HEAD + 1)
    yield from range(count, count - _TAIL, -1)
    # the newest of those that the search kept
    kept = [entry.line for entry in evidence.lines() if entry.source == name]
    yield from reversed(kept)


def _lines(text: Text) -> Iterable[str]:
    for chunk in text.chunks():
        yield from chunk.decode("utf-8", "replace").removesuffix("\n").split("\n")


def _with_gaps(rows: Sequence[str], chosen: set[int]) -> str:
    out: list[str] = []
    gap = 0
    for number, row in enumerate(rows, 1):
        if number in chosen:
            if gap:
                out.append(f"… {format_count(gap, 'line')} left out …")
            gap = 0
            out.append(row if len(row) <= _LONGEST else f"{row[:_LONGEST]}…")
        else:
            gap += 1
    if gap:
        out.append(f"… {format_count(gap, 'line')} left out …")
    return "\n".join(out)


def _reading(row: Reading, redactor: Redactor) -> Reading:
    return Reading(
        name=row.name,
        value=redactor.value(row.value),
        text=redactor.text(row.text),
        gap=redactor.text(row.gap),
        about=redactor.text(row.about),
    )


def versions(readings: Sequence[Reading]) -> dict[str, Any]:
    """What runs here, as far as it is known."""
    found: dict[str, Any] = {
        "narthex": __version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": _distribution(),
    }
    for row in readings:
        if row.name in _VERSIONS and row.value is not None:
            found[f"{row.name} {row.about}".strip()] = row.value
    return found


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings]


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _readme(left_out: Sequence[str]) -> str:
    lines = [
        "What «narthex doctor bundle» gathered for a bug report.",
        "",
        "evidence.json   logs and readings; «narthex doctor --evidence evidence.json» diagnoses them again",
        "diagnosis.json  what that says; on_the_machine: what was found where it was made",
        "versions.json   what runs there",
        "",
        "Left out or replaced:",
        *(f"- {words}" for words in left_out or ("nothing had to be",)),
        "",
        "A program can't know everything that is private to you: look through it before you send it.",
    ]
    return "\n".join(lines) + "\n"
