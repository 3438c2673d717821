"""What ``narthex doctor`` looks at: this machine, a case, or log files; and what the rules say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from narthex.doctor.bundle import Examined
from narthex.doctor.collect.gather import evidence_of, gather, live_evidence
from narthex.doctor.collect.scope import Scope
from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Diagnosis, Skipped
from narthex.doctor.reading.case import load_case
from narthex.doctor.reading.files import read_files
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.rule import Rule
from narthex.doctor.rules import RULES, SIGNS
from narthex.errors import UsageError

BY_SLUG = {rule.slug: rule for rule in RULES}


def rule_named(slug: str) -> Rule:
    """The rule of a cause. Raises UsageError with the nearest names."""
    if (rule := BY_SLUG.get(slug)) is not None:
        return rule
    near = get_close_matches(slug.lower().replace("-", "_"), BY_SLUG, n=3, cutoff=0.5)
    near += [known for known in BY_SLUG if slug and slug.lower() in known and known not in near][:3]
    ask = f"Did you mean {' or '.join(near[:3])}? " if near else ""
    raise UsageError(f"There is no cause «{slug}».", hint=f"{ask}«narthex doctor --list» shows them all.")


def rules_named(slugs: Iterable[str]) -> tuple[Rule, ...]:
    """Those that ``--only`` names, all where it names none. Raises UsageError."""
    chosen = {rule_named(slug).slug for slug in slugs}
    return tuple(rule for rule in RULES if not chosen or rule.slug in chosen)


def live(since: float | None, rules: Sequence[Rule]) -> Examined:
    """This machine, now. ``since``: logs are read from that moment on."""
    found = gather(Scope(since=since))
    evidence = evidence_of(found, SIGNS)
    return Examined(texts=found.texts, evidence=evidence, diagnosis=_diagnosis(evidence, rules))


def of_case(path: Path, rules: Sequence[Rule]) -> Diagnosis:
    """A case file, «-» for standard input. Raises UsageError."""
    return _diagnosis(load_case(path).evidence(SIGNS), rules)


def of_logs(paths: Sequence[str], rules: Sequence[Rule]) -> Diagnosis:
    """Log files of any kind, «-» for standard input. Raises UsageError."""
    return _diagnosis(read_evidence(read_files(paths), SIGNS), rules)


def look_since(moment: float) -> Evidence:
    """This machine again, with what its logs hold since a moment."""
    return live_evidence(Scope(since=moment), SIGNS)


def _diagnosis(evidence: Evidence, rules: Sequence[Rule]) -> Diagnosis:
    """With the gaps of readings beside those of rules. A chosen rule is answered without the rest."""
    found = diagnose(evidence, rules)
    known = {(gap.what, gap.why) for gap in found.skipped}
    gaps = [
        Skipped(what=f"{row.name} {row.about}".strip(), why=row.gap)
        for row in evidence.readings
        if row.gap and (row.name, row.gap) not in known
    ]
    if len(rules) == len(RULES):
        return msgspec.structs.replace(found, skipped=(*found.skipped, *gaps))
    wanted = {name for rule in rules for name in (rule.slug, *rule.readings)}
    mine = [gap for gap in (*found.skipped, *gaps) if gap.what.split(" ")[0] in wanted]
    return msgspec.structs.replace(found, facts=(), skipped=tuple(mine))
