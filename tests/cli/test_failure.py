"""Every way to fail is a sentence, a hint and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from narthex import errors, paths
from narthex.cli.crash import without_private_paths
from narthex.cli.failure import run
from narthex.errors import ExitCode, NarthexError


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    """`run` takes over SIGTERM and SIGHUP; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error: BaseException) -> click.Command:
    """A command that ends with this error."""

    def body() -> None:
        raise error

    return click.Command("body", callback=body, context_settings={"allow_extra_args": True})


def every_error() -> list[type[NarthexError]]:
    kinds = [NarthexError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return [kind for kind in kinds if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error())
def test_an_expected_error_is_one_sentence_a_hint_and_its_exit_code(
    kind: type[NarthexError], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(raising(kind("The file is damaged.", hint="Fetch it again.")), [])
    seen = capsys.readouterr()
    assert code == int(kind.exit_code)
    assert seen.err == "narthex: The file is damaged.\n  Fetch it again.\n"
    assert seen.out == ""


def test_the_tree_in_the_docstring_names_every_error_with_its_code() -> None:
    for kind in every_error():
        assert any(
            kind.__name__ in line.split() and str(int(kind.exit_code)) in line.split()
            for line in (errors.__doc__ or "").splitlines()
        ), kind


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt()), []) == ExitCode.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_a_wrong_flag_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(click.Command("body"), ["--nonsense"]) == ExitCode.USAGE
    assert "--nonsense" in capsys.readouterr().err


def test_an_exit_code_that_a_command_returns_is_kept() -> None:
    assert run(click.Command("body", callback=lambda: 7), []) == ExitCode.NOTHING_WORKED


def test_a_surprise_writes_a_report_without_private_paths(capsys: pytest.CaptureFixture[str]) -> None:
    secret = Path.home() / "private" / "novel.gguf"
    code = run(raising(RuntimeError(f"can't use {secret}")), ["tune"])
    assert code == ExitCode.CRASH
    (report,) = paths.state_dir().glob("crash-*.txt")
    text = report.read_text()
    assert "RuntimeError" in text
    assert "verb: tune" in text
    assert str(Path.home()) not in text
    assert "private" not in text
    said = capsys.readouterr().err
    assert str(report) in said
    assert "Traceback" not in said


def test_a_report_that_cannot_be_written_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NARTHEX_STATE", str(blocked))
    assert run(raising(RuntimeError("boom")), []) == ExitCode.CRASH
    assert "RuntimeError: boom" in capsys.readouterr().err


def test_source_files_keep_their_place_in_the_package() -> None:
    here = next(entry for entry in sys.path if entry.endswith("site-packages"))
    assert without_private_paths(f'File "{here}/click/core.py"') == 'File "click/core.py"'
    assert without_private_paths("open /mnt/models/x.gguf: no") == "open …/x.gguf: no"


def test_a_reader_that_stops_early_is_no_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "narthex", "settings", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NARTHEX_LLAMA_SERVER": "x" * 100_000},  # more than a pipe holds
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == ExitCode.OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_ended_takes_the_way_of_ctrl_c(number: signal.Signals) -> None:
    program = (
        "import sys, time, click\n"
        "from narthex.cli.failure import run\n"
        "def body():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "sys.exit(run(click.Command('body', callback=body), []))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, err = child.communicate()
    assert out == "cleaned up\n"
    assert "interrupted" in err
    assert child.returncode == ExitCode.INTERRUPTED


def test_a_full_disk_under_stdout_is_no_fault_of_narthex() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "narthex", "settings"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ExitCode.FAILURE
    assert b"The disk is full" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault_of_narthex(closing: str) -> None:
    narthex = f"{sys.executable} -m narthex"
    assert subprocess.run(f"{narthex} settings {closing}", shell=True, check=False).returncode == ExitCode.OK
    wrong = subprocess.run(f"{narthex} inspect nowhere.gguf {closing}", shell=True, check=False)
    assert wrong.returncode == ExitCode.BAD_MODEL


def test_a_file_does_not_take_the_place_of_a_closed_stdout(tmp_path: Path) -> None:
    data = tmp_path / "data"
    subprocess.run(
        "$NARTHEX journal note first >&-; $NARTHEX journal export --all >&-",
        shell=True,
        check=True,
        env={**os.environ, "NARTHEX_DATA": str(data), "NARTHEX": f"{sys.executable} -m narthex"},
    )
    assert (data / "journal.db").read_bytes().startswith(b"SQLite format 3")


def test_the_exit_code_counts_where_stderr_is_full() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "narthex", "inspect", "nowhere.gguf"], stderr=full, check=False
        )
    assert done.returncode == ExitCode.BAD_MODEL
