"""``narthex report``, as a person calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.testing.studies import study_result


def report(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "narthex", "report", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def stored_study() -> str:
    """A finished study in the test's own journal."""
    result = study_result()
    with Journal.open() as journal:
        study = journal.begin_study(
            key="k",
            question=msgspec.json.encode(result.question),
            model=result.model,
            engine_key=result.engine,
            host_key=result.host,
            argv=["tune", "model.gguf"],
        )
        journal.append_note("the <browser> was open", study)
        journal.finish_study(study, verdict=result.verdict, result=msgspec.json.encode(result))
    return study


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    study = stored_study()
    answer = report(study[:11], "-o", "pages/report.html", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "pages/report.html\n"
    page = (tmp_path / "pages" / "report.html").read_text()
    assert "the &lt;browser&gt; was open" in page


def test_without_a_name_it_is_called_after_the_study(tmp_path: Path) -> None:
    study = stored_study()
    assert report(folder=tmp_path).stdout == f"narthex-{study}.html\n"
    assert (tmp_path / f"narthex-{study}.html").is_file()


def test_a_dash_prints_the_page(tmp_path: Path) -> None:
    stored_study()
    assert report("last", "-o", "-", folder=tmp_path).stdout.startswith("<!doctype html>")


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    stored_study()
    answer = report("19990101", folder=tmp_path)
    assert answer.returncode == ExitCode.JOURNAL
    assert "19990101" in answer.stderr


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    stored_study()
    (tmp_path / "file").write_text("")
    answer = report("last", "-o", "file/report.html", folder=tmp_path)
    assert answer.returncode == ExitCode.FAILURE
    assert "can't be written" in answer.stderr
    assert "Traceback" not in answer.stderr
