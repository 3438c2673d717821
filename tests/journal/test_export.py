"""The journal as plain data: a study with all that belongs to it, and what belongs to none."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.journal.export import journal_document, study_document
from narthex.journal.journal import Journal
from narthex.memory.calibrate import PredictionRecord
from narthex.testing.samples import (
    KNOBS,
    MODEL,
    finding_draft,
    gateway_event,
    profile,
    soak_report,
    trial_record,
)

STUDY_FIELDS = {
    "id",
    "key",
    "started_at",
    "ended_at",
    "verdict",
    "model",
    "engine_key",
    "host_key",
    "argv",
    "question",
    "result",
    "engine_loads",
    "trials",
    "decisions",
    "predictions",
    "soaks",
    "notes",
}
TRIAL_FIELDS = {
    "sequence",
    "purpose",
    "knobs",
    "outcome",
    "reason",
    "turn_s",
    "decode_tps",
    "prompt_tps",
    "started_at",
    "seconds",
    "trial",
    "observation",
}
JOURNAL_FIELDS = {
    "narthex",
    "schema",
    "exported_at",
    "studies",
    "trials",
    "predictions",
    "soaks",
    "notes",
    "profiles",
    "findings",
    "gateway",
}
PREDICTION = PredictionRecord(
    model_identity="m",
    engine_key="e",
    device="CUDA0",
    term="context",
    knobs=KNOBS,
    predicted_bytes=100,
    actual_bytes=101,
    source="log",
)


def plain(value: Any) -> Any:
    """As it arrives on the other side of JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def fill(journal: Journal) -> str:
    study = journal.begin_study(
        key="k", question=b'{"goal":"fastest"}', model=MODEL, engine_key="e", host_key="h", argv=["tune"]
    )
    for owner, sequence in ((study, 1), (None, 2)):
        journal.append_trial(owner, trial_record(sequence))
        journal.append_prediction(owner, PREDICTION)
        journal.append_soak(study=owner, profile="p", knobs=KNOBS, report=soak_report())
        journal.append_note(f"note {sequence}", owner)
    journal.append_decision(study, 1, "try", "text", "evidence", KNOBS)
    journal.append_profile("p", MODEL.identity, msgspec.json.encode(profile("p")))
    (finding,) = journal.append_findings([finding_draft()])
    journal.append_remedy(finding, step="POST /free", outcome="done")
    journal.append_check(finding, gone=True, text="gone")
    journal.append_gateway_events([gateway_event("failed")])
    journal.finish_study(study, verdict="it is fast", result=b'{"tie":false}')
    return study


def test_a_study_is_exported_with_everything_that_belongs_to_it() -> None:
    with Journal.open() as journal:
        document = plain(study_document(journal, journal.study(fill(journal))))
    assert set(document) >= STUDY_FIELDS
    assert set(document["trials"][0]) >= TRIAL_FIELDS
    assert document["question"] == {"goal": "fastest"}
    assert document["result"] == {"tie": False}
    assert [document[name] for name in ("verdict", "engine_loads")] == ["it is fast", 1]
    assert [trial["sequence"] for trial in document["trials"]] == [1]
    assert [note["text"] for note in document["notes"]] == ["note 1"]
    assert [len(document[name]) for name in ("decisions", "predictions", "soaks")] == [1, 1, 1]


def test_a_trial_has_its_figures_in_front_and_its_whole_record_behind() -> None:
    with Journal.open() as journal:
        document = plain(study_document(journal, journal.study(fill(journal))))
    (trial,) = document["trials"]
    assert (trial["outcome"], trial["turn_s"], trial["knobs"]["num_ctx"]) == ("done", 4.5, 8192)
    assert trial["observation"]["peaks"]["vram_bytes"] is not None
    assert trial["trial"]["model"]["identity"] == MODEL.identity


def test_the_whole_journal_has_what_belongs_to_no_study_beside_the_studies() -> None:
    with Journal.open() as journal:
        fill(journal)
        document = plain(journal_document(journal))
    assert set(document) >= JOURNAL_FIELDS
    assert [trial["sequence"] for trial in document["trials"]] == [2]
    assert [note["text"] for note in document["notes"]] == ["note 2"]
    assert [len(document[name]) for name in ("studies", "predictions", "soaks", "profiles")] == [1, 1, 1, 1]
    assert document["profiles"][0]["profile"]["knobs"]["num_ctx"] == 8192
    (finding,) = document["findings"]
    assert (finding["cause"], finding["finding"]["cause"]) == ("queue_full", "queue_full")
    assert (finding["remedies"][0]["outcome"], finding["checks"][0]["gone"]) == ("done", True)
    (event,) = document["gateway"]
    assert (event["kind"], event["cause"], event["body"]) == ("failed", "vram_oom_on_load", {"seconds": 20.0})


def test_an_unfinished_study_has_no_end() -> None:
    with Journal.open() as journal:
        study = journal.begin_study(
            key="k", question=b"{}", model=None, engine_key="e", host_key="h", argv=[]
        )
        document = plain(study_document(journal, journal.study(study)))
    assert [document[name] for name in ("ended_at", "verdict", "result", "model")] == [None] * 4


def test_chosen_studies_come_without_the_rest() -> None:
    with Journal.open() as journal:
        row = journal.study(fill(journal))
        document = plain(journal_document(journal, [row]))
    assert [study["id"] for study in document["studies"]] == [row.id]
    assert "profiles" not in document
