"""What the journal keeps of a run: the findings, without keys and without endless lines."""

from __future__ import annotations

import sqlite3

import msgspec

from narthex.doctor.finding import Command, Finding, Quote, Remedy, Request, Severity
from narthex.doctor.record import LONGEST, Record, draft
from narthex.journal.journal import Journal
from narthex.paths import journal_path

FINDING = Finding(
    cause="queue_full",
    title="Too many wait",
    severity=Severity.ERROR,
    confidence=0.9,
    evidence=(
        Quote(source="ollama_log", line=1, text="Authorization: Bearer abcdef123456"),
        Quote(source="ollama_log", line=2, text="x y " * 10_000),
    ),
    why="It is full.",
    remedy=Remedy(text="Do this."),
)


def test_a_finding_is_kept_whole_but_for_keys_and_endless_lines() -> None:
    kept = msgspec.json.decode(draft(FINDING).body, type=Finding)
    assert kept.evidence[0].text == "Authorization: <secret>"
    assert len(kept.evidence[1].text) == LONGEST
    assert msgspec.structs.replace(kept, evidence=()) == msgspec.structs.replace(FINDING, evidence=())


def test_what_it_says_in_its_own_words_holds_no_key_either() -> None:
    url = "http://ada:x7Qsecret9z@10.0.0.1:11434"
    steps = (Command(text=f"curl {url}", safe=True, argv=("curl", url), request=Request(url=url)),)
    told = msgspec.structs.replace(
        FINDING,
        title=f"{url} is away",
        why=f"{url} is away",
        about=url,
        remedy=Remedy(text="", commands=steps),
    )
    kept = draft(told)
    assert "x7Qsecret9z" not in kept.title + kept.body.decode()
    assert msgspec.json.decode(kept.body, type=Finding).why == "http://<secret>@10.0.0.1:11434 is away"


def test_steps_and_checks_go_to_their_own_finding() -> None:
    other = msgspec.structs.replace(FINDING, about="llama3")
    with Record(lambda text: None) as record:
        record.findings([FINDING, other])
        record.remedy(other, "unload it", "done", "token=abcdef123456xyz")
        record.check(other, True, "it is gone")
        record.remedy(msgspec.structs.replace(FINDING, cause="disk_full"), "clean", "done", "")
    with Journal.open() as journal:
        first, second = journal.findings()
    assert (first.remedies, first.checks) == ((), ())
    assert [(step.step, step.answer) for step in second.remedies] == [("unload it", "token=<secret>")]
    assert [check.gone for check in second.checks] == [True]


def test_a_run_without_findings_leaves_nothing() -> None:
    with Record(lambda text: None) as record:
        record.findings([])
    with Journal.open() as journal:
        assert journal.findings() == []


def test_a_journal_that_somebody_holds_is_told_and_not_waited_for_long() -> None:
    said: list[str] = []
    with Record(said.append) as record:
        record.findings([FINDING])
        other = sqlite3.connect(journal_path(), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        record.findings([FINDING])
        other.close()
    assert [text.partition(":")[0] for text in said] == ["What was found is not in the journal"]
