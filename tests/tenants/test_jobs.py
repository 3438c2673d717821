"""A tenant's jobs, one after the other: what fails before it ran is no answer, what failed at work is one."""

from __future__ import annotations

import time

import pytest

from narthex.errors import TenantError
from narthex.tenants._base import JobEnd
from narthex.tenants.jobs import Jobs


class Scripted:
    """A job that is at work for a while, or not at all, and then ends as told."""

    def __init__(self, end: JobEnd, work_s: float = 0.0) -> None:
        self._end, self._work_s, self._began = end, work_s, time.monotonic()

    def begun(self) -> bool:
        return self._work_s > 0

    def poll(self) -> JobEnd | None:
        return self._end if time.monotonic() - self._began >= self._work_s else None

    def leave(self, wait: bool = True) -> None:
        """Nothing is left behind."""


NEVER = JobEnd(words="someone cleared its lists", ran=False)
CRASHED = JobEnd(words="CUDA out of memory")


def test_jobs_that_never_ran_are_an_error() -> None:
    with pytest.raises(TenantError, match="someone cleared its lists"), Jobs("x", lambda: Scripted(NEVER)):
        pytest.fail("no job runs")


def test_a_job_that_failed_at_its_work_is_in_the_report_however_quick_it_was() -> None:
    with Jobs("x", lambda: Scripted(CRASHED)) as work:
        while not work.report().ended:
            time.sleep(0.02)
    assert (work.report().done, work.report().words) == (0, ("CUDA out of memory",))


def test_a_job_that_was_at_work_and_failed_is_in_the_report() -> None:
    with Jobs("x", lambda: Scripted(CRASHED, work_s=0.4)) as work:
        while not work.report().failed:
            time.sleep(0.02)
    assert work.report().words == ("CUDA out of memory",)


def test_one_that_can_not_be_begun_is_told_in_its_own_words() -> None:
    def begin() -> Scripted:
        raise TenantError("ComfyUI has finished no workflow.", hint="Run one.")

    with pytest.raises(TenantError, match="has finished no workflow") as caught, Jobs("x", begin):
        pytest.fail("no job runs")
    assert caught.value.hint == "Run one."
