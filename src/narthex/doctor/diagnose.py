"""Runs the rules over evidence and puts their findings in order: roots first, consequences under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Diagnosis, Finding, Skipped
from narthex.doctor.healthy import facts_of
from narthex.doctor.rule import Rule

MARGIN = 0.3  # so much less certain a cause may be than its consequence, and still explain it


def diagnose(evidence: Evidence, rules: Sequence[Rule]) -> Diagnosis:
    """What is wrong, by these rules. A rule that breaks is told and stops no other."""
    found: list[Finding] = []
    skipped = list(evidence.skipped)
    for rule in rules:
        if (why := _blind(rule, evidence)) is not None:
            skipped.append(Skipped(what=rule.slug, why=why))
            continue
        try:
            found.extend(rule.check(evidence))
        except Exception as error:  # one rule's fault must not hide what the others see
            why = f"the rule broke: {type(error).__name__}: {error}"
            skipped.append(Skipped(what=rule.slug, why=why, broke=True))
    findings = in_order(found, rules)
    areas = {rule.slug: rule.area for rule in rules}
    troubled = {areas.get(finding.cause, "") for finding in findings if finding.is_trouble}
    facts = (*evidence.facts, *facts_of(evidence, troubled))
    return Diagnosis(findings=tuple(findings), facts=facts, skipped=tuple(skipped))


def in_order(found: Sequence[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """Roots by confidence and severity, each followed by its consequences; what a finding says more exactly
    than another replaces that."""
    table = {rule.slug: rule for rule in rules}
    surest = {finding.cause: finding for finding in sorted(found, key=_weight, reverse=True)}
    silent = {
        other
        for cause, finding in surest.items()
        for other in table[cause].overrules
        if other in surest and other != cause and _outweighs(finding, surest[other])
    }
    rest = sorted((finding for finding in found if finding.cause not in silent), key=_weight)
    surest = {cause: finding for cause, finding in surest.items() if cause not in silent}
    roots = {cause: _root_of(cause, surest, table) for cause in surest}
    for finding in rest:  # of causes that explain each other the likeliest is the root
        if _end_of(finding.cause, roots) == finding.cause:
            roots[finding.cause] = ""
    roots = {cause: _end_of(root, roots) if root else "" for cause, root in roots.items()}
    ordered: list[Finding] = []
    for top in dict.fromkeys(finding.cause for finding in rest if not roots[finding.cause]):
        ordered.extend(finding for finding in rest if finding.cause == top)
        below = (finding for finding in rest if roots[finding.cause] == top)
        ordered.extend(msgspec.structs.replace(finding, consequence_of=top) for finding in below)
    return ordered


def _root_of(cause: str, surest: Mapping[str, Finding], table: Mapping[str, Rule]) -> str:
    """The top of the chain of causes that explain this one; "" where it is a root itself."""
    top, seen = cause, {cause}
    while above := [
        slug
        for slug, finding in surest.items()
        if slug not in seen
        and top in table[slug].explains
        and finding.is_trouble == surest[cause].is_trouble  # what is harmless is nobody's fault
        and _outweighs(finding, surest[cause])
    ]:
        top = min(above, key=lambda slug: _weight(surest[slug]))
        seen.add(top)
    return "" if top == cause else top


def _end_of(cause: str, roots: Mapping[str, str]) -> str:
    """Where the way from a cause to its root, to the root of that, and so on ends: where there is none, or
    where it has been before."""
    seen: list[str] = []
    while cause not in seen:
        seen.append(cause)
        cause = roots[cause] or cause
    return cause


def _outweighs(one: Finding, other: Finding) -> bool:
    """A mere suspicion explains nothing that is certain, and something harmless no trouble."""
    return one.confidence >= other.confidence - MARGIN and (one.is_trouble or not other.is_trouble)


def _weight(finding: Finding) -> tuple[bool, float, int]:
    return (not finding.is_trouble, -finding.confidence, finding.severity.rank)


def _blind(rule: Rule, evidence: Evidence) -> str | None:
    """Why a rule can't see anything here: on the live machine everything that it needs has a gap."""
    if not rule.readings or not evidence.live:
        return None
    rows = [row for name in rule.readings for row in evidence.all_readings(name)]
    if any(row.value is not None for row in rows) or any(evidence.has(sign) for sign in rule.signs):
        return None
    gaps = [row.gap for row in rows if row.gap]
    return gaps[0] if gaps else None
