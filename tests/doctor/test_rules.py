"""What holds for every rule: a whole page, a place, and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from narthex.doctor.collect.names import NAMES
from narthex.doctor.rule import AREAS, Rule
from narthex.doctor.rules import RULES
from narthex.testing.evidence import evidence_of

SLUGS = {rule.slug for rule in RULES}
# Causes that only threads tell of, or that this stack can't meet, need no rule of their own.
every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.slug for rule in RULES])


def test_each_cause_has_one_rule() -> None:
    assert len(SLUGS) == len(RULES)


def test_every_cause_of_the_vocabulary_has_a_rule(shared: Path) -> None:
    text = (shared / "corpus/vocabulary.md").read_text()
    causes = set(re.findall(r"^### (\w+)", text, re.MULTILINE)) - {"healthy"}
    assert causes - SLUGS == set()


@every_rule
def test_its_page_is_whole(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]+", rule.slug)
    assert rule.area in AREAS
    for text in (rule.title, rule.meaning, rule.certain, rule.remedy.text, rule.remedy.verify):
        assert text.strip()
    assert rule.signature
    assert rule.look_alikes


@every_rule
def test_the_causes_that_it_names_exist(rule: Rule) -> None:
    named = {*rule.explains, *rule.overrules, *(row.cause for row in rule.look_alikes)}
    assert named - SLUGS - {"healthy"} == set()
    assert rule.slug not in named


@every_rule
def test_the_readings_that_it_needs_are_collected(rule: Rule) -> None:
    assert set(rule.readings) <= set(NAMES)


@every_rule
def test_without_evidence_it_finds_nothing(rule: Rule) -> None:
    assert list(rule.check(evidence_of())) == []
    assert list(rule.check(evidence_of(live=True))) == []


@every_rule
def test_what_narthex_would_do_itself_is_safe_local_and_needs_no_root(rule: Rule) -> None:
    for command in (*rule.remedy.commands, *rule.remedy.verify_commands):
        if command.argv or command.request:
            assert not command.root
        if command.request:
            assert re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])[:/]", command.request.url)
