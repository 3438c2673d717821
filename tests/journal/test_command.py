"""``narthex journal`` as a person calls it."""

from __future__ import annotations

import json

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.outcomes import Outcome
from narthex.testing.samples import KNOBS, MODEL, finding_draft, gateway_event, soak_report, trial_record


@pytest.fixture
def study() -> str:
    """A finished study with a failure, a back-off and a soak."""
    with Journal.open() as journal:
        identifier = journal.begin_study(
            key="k",
            question=b'{"goal":"fastest"}',
            model=MODEL,
            engine_key="llama-server b1",
            host_key="h",
            argv=["tune", "demo"],
        )
        journal.append_decision(identifier, 1, "try", "the plan expects it to fit", "", KNOBS)
        journal.append_trial(identifier, trial_record(1, outcome=Outcome.OUT_OF_MEMORY))
        journal.append_decision(identifier, 2, "backoff", "less context", "cudaMalloc failed", KNOBS)
        journal.append_trial(identifier, trial_record(2))
        journal.append_soak(study=identifier, knobs=KNOBS, report=soak_report())
        journal.finish_study(identifier, verdict="All layers fit.", result=b"{}")
        return identifier


def call(*words: str) -> int:
    return run(command, ["journal", *words])


def test_list_shows_one_line_a_study(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == ExitCode.OK
    line = capsys.readouterr().out.splitlines()[-1]
    for word in (study, "Demo 7B", "fastest", " 2 ", "All layers fit."):
        assert word in line


def test_list_says_how_to_begin_when_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "narthex tune MODEL" in err


def test_list_says_that_an_unfinished_study_can_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open() as journal:
        journal.begin_study(key="k", question=b"{}", model=None, engine_key="e", host_key="h", argv=[])
    call("list")
    assert "not finished" in capsys.readouterr().out


def test_list_json_has_the_same_facts(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "--json") == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["goal"], row["engine_loads"], row["finished"]) == (study, "fastest", 2, True)


@pytest.mark.parametrize("name", ["last", "the id", "the beginning"])
def test_show_tells_the_steps_with_their_reasons(
    study: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("show", {"last": "last", "the id": study, "the beginning": study[:-2]}[name]) == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "command: tune demo",
        "try: the plan expects it to fit",
        "backoff: less context",
        "evidence: cudaMalloc failed",
        "out of memory",
        "turn 4.50 s",
        "survived",
        "All layers fit.",
    ):
        assert words in text


def test_show_of_an_unknown_study_is_one_sentence(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "nonsense") == ExitCode.JOURNAL
    out, err = capsys.readouterr()
    assert out == ""
    assert "has no study «nonsense»" in err
    assert "Traceback" not in err


def test_show_json_is_the_studys_export(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "last", "--json") == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["id"] == study
    assert [trial["outcome"] for trial in document["trials"]] == ["out_of_memory", "done"]


def test_export_gives_one_study_or_everything(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", study, "--json") == ExitCode.OK
    assert "profiles" not in json.loads(capsys.readouterr().out)
    assert call("export", "--all") == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["profiles"] == []


@pytest.mark.parametrize("words", [(), ("last", "--all")])
def test_export_needs_to_know_what(
    study: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", *words) == ExitCode.USAGE
    assert "--all" in capsys.readouterr().err


def test_a_note_is_kept_and_shown_with_its_study(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("note", "the fan was loud", "--study", study[:-1]) == ExitCode.OK
    assert call("note", "a remark on nothing") == ExitCode.OK
    capsys.readouterr()
    call("show", study)
    text = capsys.readouterr().out
    assert "note: the fan was loud" in text
    assert "a remark on nothing" not in text
    call("export", "--all")
    assert [note["text"] for note in json.loads(capsys.readouterr().out)["notes"]] == ["a remark on nothing"]


def test_an_empty_note_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("note", "  ") == ExitCode.USAGE
    assert "empty" in capsys.readouterr().err


def test_what_belongs_to_no_study_is_shown(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open() as journal:
        journal.append_trial(None, trial_record(7))
        journal.append_note("a remark of mine")
    assert call("list") == ExitCode.OK
    assert "narthex journal show manual" in capsys.readouterr().err
    assert call("show", "manual") == ExitCode.OK
    out = capsys.readouterr().out
    assert "note: a remark of mine" in out
    assert out.count("trial (") == 1
    assert call("show", "manual", "--json") == ExitCode.OK
    data = json.loads(capsys.readouterr().out)
    assert [len(data[name]) for name in ("trials", "soaks", "notes")] == [1, 0, 1]


def test_nothing_of_no_study_is_said_so(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("list")
    assert "manual" not in capsys.readouterr().err
    assert call("show", "manual") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "no trial by hand" in err


def test_an_empty_journal_has_no_last_study_and_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "last") == ExitCode.JOURNAL
    assert "narthex tune MODEL" in capsys.readouterr().err


def test_events_of_the_gateway_are_shown_with_whom_they_were_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("gateway") == ExitCode.OK
    assert "narthex serve" in capsys.readouterr().err
    with Journal.open() as journal:
        journal.append_gateway_events(
            [gateway_event(), gateway_event("failed"), gateway_event("loaded", "b")]
        )
    assert call("gateway", "a") == ExitCode.OK
    assert [line[21:] for line in capsys.readouterr().out.splitlines()] == [
        "loaded a for ide: in 20 s",
        "failed a for ide (vram_oom_on_load): in 20 s",
    ]
    call("gateway", "--last", "1", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["body"]) == ("b", {"seconds": 20.0})


def test_findings_are_shown_with_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("findings") == ExitCode.OK
    assert "The journal holds no finding yet." in capsys.readouterr().err
    with Journal.open() as journal:
        finding, _ = journal.append_findings(
            [finding_draft(), finding_draft("disk_full", "The disk is full")]
        )
        journal.append_remedy(finding, step="ollama stop llama3", outcome="done")
        journal.append_check(finding, gone=True, text="it is gone")
    assert call("findings", "queue_full") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line[21:] for line in lines] == [
        "error: Ollama refuses requests (queue_full, 95%)",
        "tried: ollama stop llama3: done",
        "then: it is gone",
    ]
    call("findings", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["cause"] for row in rows] == ["queue_full", "disk_full"]
    assert rows[0]["remedies"][0]["step"] == "ollama stop llama3"
    call("list")
    assert "2 findings of the doctor: «narthex journal findings»." in capsys.readouterr().err
