"""What goes in comes out, nothing can be changed, and several processes get along."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from narthex import paths
from narthex.errors import JournalError
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.memory.calibrate import PredictionRecord
from narthex.outcomes import Outcome
from narthex.testing import samples
from narthex.testing.samples import KNOBS, MODEL, soak_report, trial_record
from narthex.trials.soak import SoakReport

FORK = multiprocessing.get_context("fork")  # no test forks while it has a journal open
TABLES = ("studies", "study_ends", "trials", "observations", "decisions", "predictions", "notes", "profiles")
OF_THE_DOCTOR = ("findings", "remedies", "remedy_checks")
OF_THE_GATEWAY = ("gateway_events",)


def begin(journal: Journal, key: str = "key") -> str:
    return journal.begin_study(
        key=key,
        question=b'{"goal":"fastest"}',
        model=MODEL,
        engine_key="engine",
        host_key="host",
        argv=["tune", "demo"],
    )


def prediction(identity: str = "m1", engine: str = "e1") -> PredictionRecord:
    return PredictionRecord(
        model_identity=identity,
        engine_key=engine,
        device="CUDA0",
        term="context",
        knobs=KNOBS,
        predicted_bytes=100,
        actual_bytes=101,
        source="log",
    )


def fill(journal: Journal) -> str:
    """One row or more in every table."""
    study = begin(journal)
    journal.append_trial(study, trial_record(1))
    journal.append_decision(study, 1, "try", "the plan expects 4 s", "frontier", KNOBS)
    journal.append_prediction(study, prediction())
    journal.append_note("the fan was loud", study)
    journal.append_soak(study=study, profile="p", knobs=KNOBS, report=soak_report())
    journal.append_profile("p", MODEL.identity, b"{}")
    journal.finish_study(study, verdict="it is fast", result=b'{"tie":false}')
    (finding,) = journal.append_findings([samples.finding_draft()])
    journal.append_remedy(finding, step="POST /free", outcome="done")
    journal.append_check(finding, gone=None, text="it could not be told")
    journal.append_gateway_events([samples.gateway_event()])
    return study


def test_the_users_journal_is_made_on_first_use_in_a_folder_of_their_own() -> None:
    with Journal.open() as journal:
        assert journal.path == paths.journal_path()
        assert journal.studies() == []
    assert stat.S_IMODE(paths.data_dir().stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.journal_path().stat().st_mode) == 0o600


def test_a_trial_comes_back_as_it_went_in() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        first, second = trial_record(1), trial_record(2, outcome=Outcome.OUT_OF_MEMORY)
        assert journal.append_trial(study, first) < journal.append_trial(study, second)
        assert journal.trials(study) == [first, second]
        assert journal.trials(None) == []
        assert journal.last_trial(MODEL.identity) == second
        assert journal.last_trial("another model") is None


def test_a_trial_of_no_study_is_kept_too() -> None:
    with Journal.open() as journal:
        journal.append_trial(None, trial_record(1))
        assert journal.trials(None) == [trial_record(1)]


def test_the_same_record_twice_is_one_row_and_a_repeat_is_another() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        assert journal.append_trial(study, trial_record(1)) == journal.append_trial(study, trial_record(1))
        journal.append_trial(study, trial_record(2))  # same setting, measured again
        assert len(journal.trials(study)) == 2


def test_a_study_is_unfinished_until_its_end_is_written() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        assert re.fullmatch(r"\d{8}-[0-9a-f]{6}", study)
        assert journal.unfinished_study("key") == journal.study(study)
        assert journal.unfinished_study("another key") is None
        journal.finish_study(study, verdict="it is fast", result=b'{"tie":false}')
        assert journal.unfinished_study("key") is None
        row = journal.study(study)
    assert row.finished
    assert (row.verdict, row.result, row.question) == ("it is fast", b'{"tie":false}', b'{"goal":"fastest"}')
    assert (row.model, row.argv) == (MODEL, ("tune", "demo"))


def test_a_study_ends_once() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        journal.finish_study(study, verdict="a", result=b"{}")
        with pytest.raises(JournalError, match="refused a row"):
            journal.finish_study(study, verdict="b", result=b"{}")
        assert journal.study(study).verdict == "a"


def test_a_study_counts_its_loads_and_not_what_a_recording_answered() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        journal.append_trial(study, trial_record(1))
        recorded = trial_record(2)
        free = type(recorded.observation)(outcome=Outcome.DONE, counts_as_load=False)
        journal.append_trial(
            study,
            type(recorded)(trial=recorded.trial, observation=free, started_at=5.0, seconds=0.0, sequence=2),
        )
        row = journal.study(study)
    assert (row.trials, row.loads) == (2, 1)


def test_studies_are_listed_newest_first_and_found_by_the_beginning_of_their_id() -> None:
    with Journal.open() as journal:
        older, newer = begin(journal, "a"), begin(journal, "b")
        assert [row.id for row in journal.studies()] == [newer, older]
        assert journal.find_study("last").id == newer
        assert journal.find_study(older[:12]).id == older or older[:12] == newer[:12]
        with pytest.raises(JournalError, match="beginning of 2 studies"):
            journal.find_study(older[:8])
        for nothing in ("nonsense", ""):
            with pytest.raises(JournalError, match="has no study"):
                journal.find_study(nothing)
        with pytest.raises(JournalError, match="has no study"):
            journal.study("nonsense")


def test_decisions_notes_soaks_and_predictions_come_back() -> None:
    with Journal.open() as journal:
        study = fill(journal)
        (step,) = journal.decisions(study)
        assert (step.kind, step.text, step.evidence, step.knobs) == (
            "try",
            "the plan expects 4 s",
            "frontier",
            KNOBS,
        )
        assert [note.text for note in journal.notes()] == ["the fan was loud"]
        assert journal.notes("another") == []
        (soak,) = journal.soaks(study)
        assert (soak.report, soak.knobs) == (soak_report(), KNOBS)
        assert journal.soaks(profile="p") == [soak]
        assert journal.soaks(profile="q") == []
        assert journal.predictions(study=study) == [prediction()]


def test_the_growth_seen_in_soaks_counts_those_of_profiles_too() -> None:
    def grown(size: int) -> SoakReport:
        return msgspec.structs.replace(soak_report(), vram_growth_bytes=size)

    with Journal.open() as journal:
        study, mine = begin(journal), MODEL.identity
        assert journal.seen_growth(mine) == 0
        journal.append_soak(study=study, knobs=KNOBS, report=grown(5))
        journal.append_profile("mine", mine, b"{}")
        journal.append_profile("other", "m-other", b"{}")
        journal.append_soak(profile="mine", knobs=KNOBS, report=grown(7))
        journal.append_soak(profile="other", knobs=KNOBS, report=grown(9))
        assert journal.seen_growth(mine) == 7


def test_tenants_count_by_what_they_held_beyond_now() -> None:
    with Journal.open() as journal:
        seen = samples.trial_record()
        peaks = msgspec.structs.replace(seen.observation.peaks, vram_card_bytes=1000, vram_bytes=700)
        observation = msgspec.structs.replace(seen.observation, peaks=peaks)
        journal.append_trial(None, msgspec.structs.replace(seen, observation=observation))
        mine = seen.trial.model.identity
        assert journal.seen_tenants(mine, held_bytes=100) == 200
        assert journal.seen_tenants(mine, held_bytes=300) == 0
        assert journal.seen_tenants("another model", held_bytes=0) == 0


def test_predictions_are_narrowed_down_by_model_and_engine() -> None:
    with Journal.open() as journal:
        for identity, engine in (("m1", "e1"), ("m1", "e2"), ("m2", "e1")):
            journal.append_prediction(None, prediction(identity, engine))
        assert len(journal.predictions()) == 3
        assert len(journal.predictions("m1")) == 2
        assert journal.predictions("m1", "e2") == [prediction("m1", "e2")]
        assert len(journal.predictions(engine_key="e1")) == 2


def test_the_newest_profile_of_a_name_counts() -> None:
    with Journal.open() as journal:
        for name, body in (("a", b"1"), ("b", b"2"), ("a", b"3")):
            journal.append_profile(name, "m", body)
        assert [(row.name, row.body) for row in journal.profile_bodies()] == [("a", b"3"), ("b", b"2")]


def test_findings_come_newest_run_first_with_what_was_tried_and_what_came_of_it() -> None:
    with Journal.open() as journal:
        first, second = journal.append_findings([samples.finding_draft(), samples.finding_draft("disk_full")])
        journal.append_remedy(first, step="POST /free", outcome="failed", answer="refused")
        journal.append_remedy(first, step="POST /free", outcome="done")
        journal.append_check(first, gone=True, text="It is gone.")
        journal.append_findings([samples.finding_draft("port_in_use")])
        rows = journal.findings()
        assert [row.cause for row in rows] == ["port_in_use", "queue_full", "disk_full"]
        assert rows[0].run != rows[1].run == rows[2].run
        assert [(one.outcome, one.answer) for one in rows[1].remedies] == [
            ("failed", "refused"),
            ("done", ""),
        ]
        assert [(one.gone, one.text) for one in rows[1].checks] == [(True, "It is gone.")]
        assert [row.id for row in journal.findings("disk_full")] == [second]


def test_events_of_the_gateway_come_in_time_order_and_narrowed_down() -> None:
    with Journal.open() as journal:
        drafts = [
            samples.gateway_event(),
            samples.gateway_event("failed"),
            samples.gateway_event("loaded", "b"),
        ]
        journal.append_gateway_events(drafts)
        journal.append_gateway_events([])
        rows = journal.gateway_events()
        assert [(row.kind, row.model) for row in rows] == [("loaded", "a"), ("failed", "a"), ("loaded", "b")]
        assert [row.id for row in rows] == [1, 2, 3]
        assert rows[0].body == drafts[0].body
        assert [row.model for row in journal.gateway_events(kind="loaded")] == ["a", "b"]
        assert [row.kind for row in journal.gateway_events(model="a")] == ["loaded", "failed"]
        assert [row.id for row in journal.gateway_events(limit=1)] == [3]


def test_a_step_needs_its_finding() -> None:
    with Journal.open() as journal, pytest.raises(JournalError, match="refused a row"):
        journal.append_remedy(7, step="POST /free", outcome="done")


@pytest.mark.parametrize("table", [*TABLES, "soaks", *OF_THE_DOCTOR, *OF_THE_GATEWAY, "schema_migrations"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "UPDATE {} SET rowid = rowid"])
def test_no_row_can_be_changed_or_deleted(table: str, verb: str) -> None:
    with Journal.open() as journal:
        fill(journal)
    with (
        sqlite3.connect(paths.journal_path()) as connection,
        pytest.raises(sqlite3.IntegrityError, match="the journal only grows"),
    ):
        connection.execute(verb.format(table))


def test_a_row_about_a_study_needs_that_study() -> None:
    with Journal.open() as journal, pytest.raises(JournalError, match="refused a row"):
        journal.append_trial("no such study", trial_record(1))


def test_a_failed_write_leaves_nothing_and_the_journal_goes_on() -> None:
    with Journal.open() as journal:
        with pytest.raises(JournalError):
            journal.append_decision("no such study", 1, "try", "text")
        study = begin(journal)
        journal.append_decision(study, 1, "try", "text")
        assert len(journal.decisions(study)) == 1


def test_an_argument_that_is_no_text_does_not_stop_a_study() -> None:
    with Journal.open() as journal:
        study = journal.begin_study(
            key="k",
            question=b"{}",
            model=None,
            engine_key="e",
            host_key="h",
            argv=["tune", os.fsdecode(b"/models/\xff.gguf")],
        )
        assert journal.study(study).argv == ("tune", "/models/?.gguf")


def _append_many(path: Path, study: str, worker: int, count: int) -> None:
    with Journal.open(path) as journal:
        for index in range(count):
            journal.append_trial(study, trial_record(worker * 1000 + index))


def test_several_processes_write_at_once_and_nothing_is_lost() -> None:
    with Journal.open() as journal:
        study, path = begin(journal), journal.path
    workers = [FORK.Process(target=_append_many, args=(path, study, number, 25)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Journal.open() as journal:
        sequences = sorted(record.sequence for record in journal.trials(study))
    assert sequences == sorted(worker * 1000 + index for worker in range(3) for index in range(25))


def _begin_one(number: int) -> None:
    with Journal.open() as journal:
        begin(journal, str(number))


def test_several_processes_make_one_journal() -> None:
    workers = [FORK.Process(target=_begin_one, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    with Journal.open() as journal:
        assert sorted(row.key for row in journal.studies()) == [str(number) for number in range(6)]


def _hold_study(pipe: Connection) -> None:
    with Journal.open() as journal, journal.lock_study("key"):
        pipe.send("held")
        pipe.recv()


def test_a_study_is_run_by_one_process_and_a_killed_one_lets_go() -> None:
    here, there = multiprocessing.Pipe()
    holder = FORK.Process(target=_hold_study, args=(there,))
    holder.start()
    assert here.poll(60), "the child never held the study"
    with Journal.open() as journal:
        with (
            pytest.raises(JournalError, match=rf"process {holder.pid}, since ") as caught,
            journal.lock_study("key"),
        ):
            pass
        assert f"kill -INT {holder.pid}" in caught.value.hint
        with journal.lock_study("another key"):
            pass
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join(60)
        with journal.lock_study("key"):
            pass


def test_a_lock_is_free_again_after_its_block_failed() -> None:
    with Journal.open() as journal:
        with pytest.raises(ValueError, match="a mistake"), journal.lock_study("key"):
            raise ValueError("a mistake")
        with journal.lock_study("key"):
            pass


def test_importing_the_journal_loads_nothing_heavy() -> None:
    code = (
        "import sys, narthex.journal.journal;"
        "print([m for m in ('rich', 'aiohttp', 'psutil', 'asyncio', 'jinja2') if m in sys.modules],"
        " [m for m in sys.modules if m.startswith(('narthex.studies', 'narthex.profiles', 'narthex.views'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["[]", "[]"]


def test_knob_values_of_an_older_narthex_are_read_with_todays_defaults() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        with sqlite3.connect(journal.path) as connection:
            connection.execute(
                """INSERT INTO decisions(study, sequence, kind, text, evidence, knobs, at)
                   VALUES (?, 1, 'try', '', '', ?, 0)""",
                (study, '{"num_ctx": 2048, "a_knob_of_old": 1}'),
            )
        assert journal.decisions(study)[0].knobs == KnobValues(num_ctx=2048)


def test_a_row_of_an_unknown_shape_is_named() -> None:
    with Journal.open() as journal:
        study = begin(journal)
        with sqlite3.connect(journal.path) as connection:
            connection.execute(
                """INSERT INTO decisions(study, sequence, kind, text, evidence, knobs, at)
                   VALUES (?, 1, 'try', '', '', ?, 0)""",
                (study, '{"num_ctx": "many"}'),
            )
        with pytest.raises(JournalError, match="decision 1 can't be read"):
            journal.decisions(study)
