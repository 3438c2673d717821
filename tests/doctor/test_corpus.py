"""Real failures of real people: what the doctor says first, and what it must not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.finding import Diagnosis
from narthex.testing.evidence import diagnosis_of

Case = dict[str, Any]


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[tuple[Case, Diagnosis]]:
    """Every case with its diagnosis."""
    rows = [json.loads(line) for line in (shared / "corpus/cases.jsonl").read_text().splitlines()]
    return [(row, diagnosis_of(**row["evidence"])) for row in rows]


def troubles(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings if finding.is_trouble]


def missed(cases: list[tuple[Case, Diagnosis]], first: int) -> list[str]:
    sick = [
        (case, troubles(diagnosis)[:first])
        for case, diagnosis in cases
        if case["evidence_sufficient"] and case["root_cause"] != "healthy"
    ]
    assert len(sick) > 60
    return [
        f"{case['id']}: {case['root_cause']}, not {found}"
        for case, found in sick
        if case["root_cause"] not in found
    ]


def test_the_first_finding_is_right_in_nine_of_ten(cases: list[tuple[Case, Diagnosis]]) -> None:
    wrong = missed(cases, 1)
    assert len(wrong) <= len(cases) * 0.1, wrong


def test_the_cause_is_among_the_first_three(cases: list[tuple[Case, Diagnosis]]) -> None:
    wrong = missed(cases, 3)
    assert len(wrong) <= len(cases) * 0.03, wrong


def test_nothing_is_wrong_with_healthy_ones(cases: list[tuple[Case, Diagnosis]]) -> None:
    healthy = [(case, diagnosis) for case, diagnosis in cases if case["root_cause"] == "healthy"]
    assert healthy
    for case, diagnosis in healthy:
        assert diagnosis.healthy, (case["id"], troubles(diagnosis))


def test_every_finding_quotes_lines_that_are_really_there(cases: list[tuple[Case, Diagnosis]]) -> None:
    for case, diagnosis in cases:
        texts = {kind: text.split("\n") for kind, text in case["evidence"].items()}
        for finding in diagnosis.findings:
            assert finding.evidence, (case["id"], finding.cause)
            for quote in finding.evidence:
                assert quote.text.strip()
                line = texts[quote.source][quote.line - 1]
                assert quote.text in line, (case["id"], finding.cause, quote)


def test_no_rule_breaks(cases: list[tuple[Case, Diagnosis]]) -> None:
    broken = [row for _, diagnosis in cases for row in diagnosis.skipped if row.broke]
    assert broken == []
