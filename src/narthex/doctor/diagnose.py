"""Runs the rules over evidence and puts their findings in order: roots first, consequences under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Diagnosis, Fact, Finding, Skipped
from narthex.doctor.healthy import facts_of
from narthex.doctor.rule import Rule


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
    facts: Sequence[Fact] = (*evidence.facts, *facts_of(evidence))
    return Diagnosis(findings=tuple(in_order(found, rules)), facts=tuple(facts), skipped=tuple(skipped))


def in_order(found: Sequence[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """Roots by confidence and severity, each followed by its consequences; what a finding says more exactly
    than another replaces that."""
    table = {rule.slug: rule for rule in rules}
    sure = {finding.cause: finding for finding in sorted(found, key=lambda one: one.confidence)}
    silent = {
        other
        for cause, finding in sure.items()
        if cause in table
        for other in table[cause].overrules
        if other in sure and other != cause and _outweighs(finding, sure[other])
    }
    rest = [finding for finding in found if finding.cause not in silent]
    roots = {finding.cause: _root_of(finding, sure, table, silent) for finding in rest}
    ordered: list[Finding] = []
    for root in sorted((one for one in rest if not roots[one.cause]), key=_weight):
        if root in ordered:
            continue
        ordered.append(root)
        ordered.extend(_under(root.cause, rest, roots))
    ordered.extend(finding for finding in rest if finding.cause not in {one.cause for one in ordered})
    return ordered


def _under(cause: str, rest: Sequence[Finding], roots: dict[str, str]) -> Iterator[Finding]:
    import msgspec

    for finding in sorted((one for one in rest if roots[one.cause] == cause), key=_weight):
        yield msgspec.structs.replace(finding, consequence_of=cause)


def _root_of(finding: Finding, sure: dict[str, Finding], table: dict[str, Rule], silent: set[str]) -> str:
    """The cause that explains it and is not explained by it; "" for a root. Chains end at the top."""
    seen = {finding.cause}
    cause = finding.cause
    while True:
        above = [
            slug
            for slug, other in sure.items()
            if slug in table
            and slug not in silent
            and slug not in seen
            and cause in table[slug].explains
            and _outweighs(other, finding)
        ]
        if not above:
            return "" if cause == finding.cause else cause
        cause = max(above, key=lambda slug: sure[slug].confidence)
        seen.add(cause)


def _outweighs(one: Finding, other: Finding) -> bool:
    """A mere suspicion explains nothing that is certain."""
    return one.confidence >= other.confidence - 0.3


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
