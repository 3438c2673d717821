"""Roots first, consequences under them, and a rule that breaks stops no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from narthex.doctor.diagnose import diagnose, in_order
from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Finding, Quote, Remedy, Severity
from narthex.doctor.rule import Rule
from narthex.testing.evidence import evidence_of


def finding(
    cause: str, confidence: float = 0.8, severity: Severity = Severity.ERROR, about: str = ""
) -> Finding:
    return Finding(
        cause=cause,
        title=cause,
        severity=severity,
        confidence=confidence,
        evidence=(Quote(source="ollama_log", line=1, text="x"),),
        why="",
        remedy=Remedy(text=""),
        about=about,
    )


def rule(
    slug: str,
    *found: Finding,
    explains: tuple[str, ...] = (),
    overrules: tuple[str, ...] = (),
    readings: tuple[str, ...] = (),
) -> Rule:
    return Rule(
        slug=slug,
        title=slug,
        area="gpu",
        meaning="",
        signature=(),
        certain="",
        remedy=Remedy(text=""),
        look_alikes=(),
        check=lambda evidence: found,
        explains=explains,
        overrules=overrules,
        readings=readings,
    )


def shown(found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.cause, one.consequence_of) for one in found]


def test_the_root_comes_first_and_its_consequences_right_under_it() -> None:
    rules = [
        rule("slow", explains=()),
        rule("module", explains=("blind",)),
        rule("blind", explains=("slow",)),
        rule("disk"),
    ]
    found = [finding("slow", 0.95), finding("disk", 0.85), finding("blind", 0.9), finding("module", 0.9)]
    assert shown(in_order(found, rules)) == [
        ("module", ""),
        ("slow", "module"),
        ("blind", "module"),
        ("disk", ""),
    ]


def test_a_more_exact_finding_replaces_a_general_one() -> None:
    rules = [rule("suspend", overrules=("module",)), rule("module")]
    assert shown(in_order([finding("module", 0.9), finding("suspend", 0.7)], rules)) == [("suspend", "")]


def test_a_suspicion_neither_replaces_nor_explains_what_is_certain() -> None:
    rules = [rule("suspend", overrules=("module",), explains=("slow",)), rule("module"), rule("slow")]
    found = [finding("suspend", 0.3), finding("module", 0.9), finding("slow", 0.9)]
    assert shown(in_order(found, rules)) == [("module", ""), ("slow", ""), ("suspend", "")]


def test_the_likeliest_comes_first_and_harmless_things_last() -> None:
    found = [
        finding("harmless", 0.99, Severity.INFO),
        finding("unlikely", 0.4, Severity.CRITICAL),
        finding("likely", 0.8, Severity.WARNING),
        finding("as likely and worse", 0.8, Severity.CRITICAL),
    ]
    order = [one.cause for one in in_order(found, [rule(one.cause) for one in found])]
    assert order == ["as likely and worse", "likely", "unlikely", "harmless"]


def test_something_harmless_explains_no_trouble() -> None:
    rules = [rule("harmless", explains=("slow",)), rule("slow")]
    found = [finding("harmless", 0.95, Severity.INFO), finding("slow", 0.6)]
    assert shown(in_order(found, rules)) == [("slow", ""), ("harmless", "")]


def test_something_harmless_follows_from_no_trouble() -> None:
    rules = [rule("killed", explains=("absent",)), rule("absent")]
    found = [finding("killed"), finding("absent", 0.6, Severity.INFO)]
    assert shown(in_order(found, rules)) == [("killed", ""), ("absent", "")]


def test_two_of_a_kind_stay_together_and_share_their_consequences() -> None:
    rules = [rule("full", explains=("stopped",)), rule("stopped"), rule("other")]
    found = [
        finding("full", 0.9, about="a"),
        finding("other", 0.8),
        finding("full", 0.7, about="b"),
        finding("stopped"),
    ]
    assert shown(in_order(found, rules)) == [("full", ""), ("full", ""), ("stopped", "full"), ("other", "")]


def test_causes_that_explain_each_other_are_both_said_once() -> None:
    rules = [rule("hen", explains=("egg",)), rule("egg", explains=("hen",))]
    order = [one.cause for one in in_order([finding("hen"), finding("egg")], rules)]
    assert sorted(order) == ["egg", "hen"]


def test_what_follows_from_causes_that_explain_each_other_stands_under_the_likeliest() -> None:
    rules = [rule("hen", explains=("egg",)), rule("egg", explains=("hen", "omelette")), rule("omelette")]
    found = [finding("omelette"), finding("egg", 0.8), finding("hen", 0.9)]
    assert shown(in_order(found, rules)) == [("hen", ""), ("omelette", "hen"), ("egg", "hen")]


def test_a_rule_that_breaks_is_told_and_the_others_go_on() -> None:
    def breaks(evidence: Evidence) -> Iterator[Finding]:
        yield finding("broken")
        raise ZeroDivisionError("of nothing")

    broken = Rule(
        slug="broken",
        title="",
        area="gpu",
        meaning="",
        signature=(),
        certain="",
        remedy=Remedy(text=""),
        look_alikes=(),
        check=breaks,
    )
    diagnosis = diagnose(evidence_of(), [broken, rule("fine", finding("fine"))])
    assert "fine" in [one.cause for one in diagnosis.findings]
    (skipped,) = [row for row in diagnosis.skipped if row.broke]
    assert skipped.what == "broken"
    assert "of nothing" in skipped.why


@pytest.mark.parametrize(("value", "told"), [(None, True), (True, False)])
def test_on_a_live_machine_a_rule_without_its_readings_can_not_tell(value: bool | None, told: bool) -> None:
    readings = (Reading(name="module.nvidia", value=value, gap="can't tell, because /proc is not there"),)
    diagnosis = diagnose(
        evidence_of(readings=readings, live=True), [rule("driver", readings=("module.nvidia",))]
    )
    assert [row.what for row in diagnosis.skipped] == (["driver"] if told else [])
    assert diagnosis.healthy
