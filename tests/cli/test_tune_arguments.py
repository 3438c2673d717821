"""What «narthex tune» refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--min-tps", "nan"), "--min-tps can't be nan"),
        (("--min-tps", "-1"), "--min-tps can't be -1"),
        (("--ctx", "999999999999"), "--ctx"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    arguments: tuple[str, ...], words: str, gemma: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command, ["tune", str(gemma), *arguments]) == ExitCode.USAGE
    assert words in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--set", "--current"])
def test_more_threads_than_cores_are_refused(
    option: str, gemma: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command, ["tune", str(gemma), option, "threads=4096"]) == ExitCode.USAGE
    assert "more than the" in capfd.readouterr().err
