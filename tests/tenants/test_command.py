"""A tenant whose job is a command: started without a shell, measured, ended by us."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from narthex.errors import TenantError
from narthex.tenants.command import CommandTenant


def quiet(stage: str, share: float | None) -> None:
    """Nobody watches."""


def tenant(code: str) -> CommandTenant:
    return CommandTenant("render", (sys.executable, "-c", code))


def test_one_job_is_measured_and_the_gap_is_named_without_a_card() -> None:
    peak = tenant("pass").measure(quiet)
    assert peak.jobs == 1
    assert peak.bytes is not None or peak.gaps


def test_a_job_that_fails_is_told_with_its_last_line() -> None:
    failing = tenant("import sys; print('no scene'); sys.exit(3)")
    with pytest.raises(TenantError, match="exit code 3: no scene") as caught:
        failing.measure(quiet)
    assert sys.executable in caught.value.hint


def test_a_program_that_is_not_there_is_told() -> None:
    missing = CommandTenant("render", ("no-such-program-of-narthex",))
    with pytest.raises(TenantError, match="can't be started") as caught:
        missing.measure(quiet)
    with pytest.raises(TenantError, match="there is no program «no-such-program-of-narthex»"):
        missing.must_be_ready()
    tenant("pass").must_be_ready()
    assert "[beside.render]" in caught.value.hint
    with pytest.raises(TenantError, match="can't be started"), missing.job():
        pytest.fail("no job runs")


def test_jobs_are_repeated_until_they_are_left(tmp_path: Path) -> None:
    counting = tenant(f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    with counting.job() as work:
        while work.report().done < 3:
            time.sleep(0.02)
    report = work.report()
    assert (report.failed, report.ended) == (0, "")
    assert len((tmp_path / "runs").read_text()) >= report.done >= 3


def test_a_running_job_is_ended_when_it_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    endless = tenant(f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    with endless.job():
        while not path.exists() or not path.read_text():
            time.sleep(0.02)
    assert not Path(f"/proc/{path.read_text()}").exists()


def test_a_job_that_keeps_failing_is_given_up() -> None:
    with tenant("import sys; sys.exit('broken')").job() as work:
        while not work.report().ended:
            time.sleep(0.02)
    assert (work.report().done, work.report().failed) == (0, 3)
    assert work.report().words == ("exit code 1: broken",)


def test_it_is_described_by_its_command() -> None:
    assert CommandTenant("blender", ("blender", "-b", "my scene.blend")).describe() == (
        "blender: blender -b 'my scene.blend'"
    )


def test_words_are_not_read_by_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    CommandTenant("x", (sys.executable, "-c", "pass", f"; touch {target}")).measure(quiet)
    assert not target.exists()


def test_what_is_not_running_holds_nothing() -> None:
    assert CommandTenant("x", ("true",), process="no-such-process").held_bytes() in (None, 0)
